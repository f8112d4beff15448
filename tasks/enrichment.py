"""Tasks with what Trigger.dev knows of them: their newest runs, and when they run next.

A list of any length costs one question a scheduled task, all asked at once, and no query.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.conf import settings

from tasks import cron, runs, upstream, zones
from tasks.models import SyncStatus, Task
from tasks.run_owners import owned_through_schedule
from tasks.runs import Fire, RunsStatus, Snapshot
from tasks.trigger.types import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnrichedTask:
    task: Task
    recent_runs: list[Run]
    runs_status: RunsStatus
    runs_as_of: datetime | None
    upcoming: list[datetime]


def enrich(tasks: Iterable[Task], *, now: datetime, deadline: float) -> list[EnrichedTask]:
    """`deadline`: seconds of `time.monotonic()`, after which the tasks go out with what is known."""
    tasks = list(tasks)
    scheduled = {task.trigger_schedule_id: task for task in tasks if task.trigger_schedule_id}
    snapshots = runs.of_schedules(scheduled, now=now, deadline=deadline)
    fires = runs.last_fires(scheduled)
    for schedule_id, task in scheduled.items():
        learn_newest_fire(task, snapshots[schedule_id], fires.get(schedule_id))
    never_scheduled = Snapshot([], now, RunsStatus.FRESH)
    return [
        enriched(
            task,
            snapshots.get(task.trigger_schedule_id or "", never_scheduled),
            fires.get(task.trigger_schedule_id or ""),
            now=now,
        )
        for task in tasks
    ]


def enriched(task: Task, snapshot: Snapshot, fire: Fire | None, *, now: datetime) -> EnrichedTask:
    return EnrichedTask(
        task=task,
        recent_runs=owned_through_schedule(snapshot.runs, task.account_id),
        runs_status=snapshot.status,
        runs_as_of=snapshot.as_of,
        upcoming=upcoming(task, fire, now=now),
    )


def upcoming(task: Task, fire: Fire | None, *, now: datetime) -> list[datetime]:
    """The next times of the task: as its newest run was told them, where that still holds, else computed."""
    computed = next_times(task, now=now)
    if not computed or not fire or not still_counts(fire, task):
        return computed
    return [moment for moment in fire.upcoming if moment > now] or computed


def still_counts(fire: Fire, task: Task) -> bool:
    """Whether the run was made with the cron and the zone that the task has now."""
    return fire.timezone == zones.sent(task.timezone) and fire.timestamp >= task.schedule_changed_at


def next_times(task: Task, *, now: datetime) -> list[datetime]:
    """Computed, ten of them. A paused task, and one that Trigger.dev refused, has none."""
    if not task.is_enabled or task.sync_status == SyncStatus.REFUSED:
        return []
    try:
        return list(cron.upcoming(task.schedule, task.timezone, now=now))
    except (cron.CronError, KeyError, ValueError) as error:
        logger.error("Task %s has a schedule that never fires: %s", task.id, error)
        return []


def learn_newest_fire(task: Task, snapshot: Snapshot, known: Fire | None) -> None:
    """Behind the answer, once for each new run."""
    newest = snapshot.runs[0]["id"] if snapshot.runs else None
    if newest and (known is None or known.run_id != newest) and runs.may_learn_fire(newest):
        upstream.ask_behind(partial(compare_newest_fire, task, newest))


def compare_newest_fire(task: Task, run_id: str) -> None:
    deadline = time.monotonic() + settings.REQUEST_DEADLINE
    fire = runs.learn_fire(str(task.trigger_schedule_id), run_id, deadline=deadline)
    if still_counts(fire, task) and list(fire.upcoming) != next_times(task, now=fire.timestamp):
        message = "Task %s: Trigger.dev says it fires at other times than cron.py computes (%d times so far)"
        logger.error(message, task.id, runs.count_disagreement())
