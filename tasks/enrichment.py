"""Tasks with what Trigger.dev knows of them: their newest runs, and when they run next.

A list of any length costs one question a scheduled task, one more for a task that somebody has run by hand, all asked
at once, and no query.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import itemgetter

from django.conf import settings

from tasks import cron, runs, upstream, zones
from tasks.models import SyncStatus, Task
from tasks.run_owners import TASK_TAG, owned_through_schedule, owned_through_tag
from tasks.runs import RECENT, Fire, RunsStatus, Snapshot, Source
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
    snapshots = runs.newest([source for task in tasks for source in sources(task)], now=now, deadline=deadline)
    fires = runs.last_fires([task.trigger_schedule_id for task in tasks if task.trigger_schedule_id])
    return [enriched(task, snapshots, fires.get(task.trigger_schedule_id or ""), now=now) for task in tasks]


def sources(task: Task) -> list[Source]:
    """Only a task that somebody has run by hand is asked about twice."""
    found = [Source("schedule", task.trigger_schedule_id)] if task.trigger_schedule_id else []
    return [*found, Source("tag", f"{TASK_TAG}{task.pk}")] if task.run_by_hand_at else found


def enriched(task: Task, snapshots: Mapping[Source, Snapshot], fire: Fire | None, *, now: datetime) -> EnrichedTask:
    mine = {source: snapshots[source] for source in sources(task)}
    scheduled = next((snapshot for source, snapshot in mine.items() if source.kind == "schedule"), None)
    if scheduled is not None:
        learn_newest_fire(task, scheduled, fire)
    return EnrichedTask(
        task=task,
        recent_runs=newest_of(task, mine),
        runs_status=joint_status([snapshot.status for snapshot in mine.values()]),
        runs_as_of=min((snapshot.as_of for snapshot in mine.values() if snapshot.as_of), default=None if mine else now),
        upcoming=upcoming(task, fire, now=now),
    )


def newest_of(task: Task, snapshots: Mapping[Source, Snapshot]) -> list[Run]:
    """The newest five that are the task's account's, wherever they were found."""
    owned = {"schedule": owned_through_schedule, "tag": owned_through_tag}
    found = {
        run["id"]: run
        for source, snapshot in snapshots.items()
        for run in owned[source.kind](snapshot.runs, task.account_id)
    }
    return sorted(found.values(), key=itemgetter("createdAt"), reverse=True)[:RECENT]


def joint_status(statuses: Collection[RunsStatus]) -> RunsStatus:
    """Fresh when all are; what is known in part may lack the newest, as what is stale."""
    if all(status is RunsStatus.FRESH for status in statuses):
        return RunsStatus.FRESH
    is_unknown = all(status is RunsStatus.UNAVAILABLE for status in statuses)
    return RunsStatus.UNAVAILABLE if is_unknown else RunsStatus.STALE


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
