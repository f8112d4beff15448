"""Whether Trigger.dev computes the same next run as we do. Everything that is polled when due stands on that.

Every answer about a schedule carries its `nextRun`. Where it differs, the two usually have other rules for a time zone.
"""

import logging
from datetime import datetime, timedelta
from uuid import UUID

import prometheus_client
from django.db import transaction
from django.utils import timezone

from tasks import cron
from tasks.cron import calendar, zones
from tasks.models import Task
from tasks.trigger.types import Schedule

# A schedule that has just fired, or is about to, may still show the time before.
TOLERANCE = timedelta(minutes=2)
# Enough for the times of some hours, of an expression that fires every minute.
MAX_TIMES = 400
DIFFERS = prometheus_client.Counter(
    "recoup_next_run_differs", "Schedules whose next run at Trigger.dev is none of ours, by time zone.", ["timezone"]
)

logger = logging.getLogger(__name__)


def shift_of(schedule: Schedule, *, at: datetime) -> timedelta:
    """How much later than ours Trigger.dev's next run is, where it certainly is another one; counts and logs that.

    `at`: when Trigger.dev answered. Zero says nothing: of times that repeat every hour, an hour's shift is not seen.
    """
    if not schedule.active or schedule.next_run is None:
        return timedelta()
    try:
        since = min(at, schedule.next_run) - calendar.MAX_SHIFT - TOLERANCE
        ours = cron.next_times(schedule.cron, schedule.timezone, after=since, count=MAX_TIMES)
    except (cron.CronError, KeyError, ValueError):
        return timedelta()  # not written by us
    recent = [time for time in ours if at - TOLERANCE < time <= at + TOLERANCE]
    upcoming = [time for time in ours if time > at + TOLERANCE]
    if not upcoming or schedule.next_run in (*recent, upcoming[0]):
        return timedelta()
    DIFFERS.labels(schedule.timezone).inc()
    logger.error(
        "Schedule %s (%s, %s): Trigger.dev's next run is %s, ours is %s",
        *(schedule.id, schedule.cron, schedule.timezone, schedule.next_run, upcoming[0]),
    )
    # Theirs stands for the one before it, or for one of the next two.
    past = [time for time in ours if time <= at - TOLERANCE][-1:]
    nearest = min((schedule.next_run - time for time in (*past, *recent, *upcoming[:2])), key=abs_or_most)
    return nearest if abs(nearest) <= calendar.MAX_SHIFT else timedelta()


def abs_or_most(shift: timedelta) -> timedelta:
    """The same time as one of ours is no candidate: it is not the next one."""
    return abs(shift) or timedelta.max


def store(task_id: UUID, schedule: Schedule, shift: timedelta) -> None:
    """The task is polled at both times from now on, and no run of it is certainly missing."""
    with transaction.atomic():
        task = Task.objects.select_for_update().filter(pk=task_id).first()
        if task is None or (task.schedule, zones.trigger_name(task.timezone)) != (schedule.cron, schedule.timezone):
            return
        now = timezone.now()
        periods = calendar.shifted(task.calendar, shift, at=now)
        if periods != task.calendar:
            row = Task.objects.filter(pk=task_id)
            row.update(fire_periods=calendar.to_json(periods))
            row.poll_soon(at=now)
