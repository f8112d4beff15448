"""When a task runs next: computed, or as the newest run of its schedule was told, where that still holds.

Trigger.dev writes the next times into the payload of each scheduled run. It is fetched behind answers, once for a new
run, never on the way of a request; where it disagrees with what is computed, that is logged and counted.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.core.cache import cache

from core.text import parse_timestamp
from tasks import cron
from tasks.cron import zones
from tasks.gateway import upstream
from tasks.models import SyncStatus, Task
from tasks.trigger.types import Run

KEPT_FOR = 24 * 3600
LEARN_AGAIN_AFTER = 60
MOST_KEPT = 10_000

_kept: dict[tuple[str, str], tuple[datetime, tuple[datetime, ...]]] = {}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fire:
    """What Trigger.dev wrote into the payload of a scheduled run; no times where it was none of a schedule."""

    run_id: str
    timestamp: datetime
    timezone: str
    upcoming: tuple[datetime, ...]


def upcoming(task: Task, fire: Fire | None, *, now: datetime) -> tuple[datetime, ...]:
    """The next times of the task; an entry in the past is none of them."""
    computed = next_times(task, now=now)
    if not computed or fire is None or not still_counts(fire, task):
        return computed
    return tuple(moment for moment in fire.upcoming if moment > now) or computed


def next_times(task: Task, *, now: datetime) -> tuple[datetime, ...]:
    """Computed, ten of them. A paused task, and one that Trigger.dev refused, has none."""
    if not task.is_enabled or task.sync_status == SyncStatus.REFUSED:
        return ()
    try:
        return kept_times(task.schedule, task.timezone, now=now)
    except (cron.CronError, KeyError, ValueError) as error:
        logger.error("Task %s has a schedule that never fires: %s", task.id, error)
        return ()


def kept_times(expression: str, timezone: str, *, now: datetime) -> tuple[datetime, ...]:
    """The next ten times, kept until the first has passed: computing them may take longer than an HTTP call."""
    since, times = _kept.get((expression, timezone), (now, ()))
    if not times or not since <= now < times[0]:
        times = tuple(cron.next_times(expression, timezone, after=now))
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        _kept[expression, timezone] = now, times
    return times


def still_counts(fire: Fire, task: Task) -> bool:
    """Whether the run was made with the cron and the zone that the task has now."""
    return fire.timezone == zones.trigger_name(task.timezone) and fire.timestamp >= task.schedule_changed_at


# --- The payload of the newest run -----------------------------------------------------------------------------------


def last_fire(schedule_id: str) -> Fire | None:
    """Where its payload is at hand; asks nobody."""
    fire: Fire | None = cache.get(fire_name(schedule_id))
    return fire


def learn_behind(task: Task, run_id: str) -> None:
    """At most once a minute for a run, so that a payload that is slow to come is not asked for by every request."""
    name = upstream.cache_name("learning-fire", run_id)
    if cache.add(name, True, LEARN_AGAIN_AFTER):
        upstream.call_in_background(name, partial(learn, task, run_id))


def learn(task: Task, run_id: str) -> None:
    run = upstream.client().retrieve_run(run_id, deadline=upstream.deadline_from_now())
    fire = fire_of(run)
    cache.set(fire_name(str(task.trigger_schedule_id)), fire, KEPT_FOR)
    if still_counts(fire, task) and fire.upcoming != next_times(task, now=fire.timestamp):
        message = "Task %s: Trigger.dev says it fires at other times than expressions.py computes (%d times so far)"
        logger.error(message, task.id, count_disagreement())


def fire_of(run: Run) -> Fire:
    payload: Any = run.get("payload")
    try:
        upcoming = tuple(parse_timestamp(text) for text in payload["upcoming"])
        return Fire(run["id"], parse_timestamp(payload["timestamp"]), str(payload["timezone"]), upcoming)
    except (TypeError, KeyError, ValueError):
        return Fire(run["id"], datetime.min.replace(tzinfo=UTC), "", ())


def count_disagreement() -> int:
    """How often Trigger.dev's times were not the computed ones, this one included."""
    name = upstream.cache_name("count", "cron-disagreements")
    cache.add(name, 0, None)
    return cache.incr(name)


def fire_name(schedule_id: str) -> str:
    return upstream.cache_name("fire", schedule_id)
