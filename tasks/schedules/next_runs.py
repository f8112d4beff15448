"""Whether Trigger.dev computes the same next run as we do. Everything that is polled when due stands on that.

Every answer about a schedule carries its `nextRun`. Where it differs, the two usually have other rules for a time zone.
"""

import logging
from datetime import datetime, timedelta

import prometheus_client

from tasks import cron
from tasks.trigger.types import Schedule

# A schedule that has just fired, or is about to, may still show the time before.
TOLERANCE = timedelta(minutes=2)
DIFFERS = prometheus_client.Counter(
    "recoup_next_run_differs", "Schedules whose next run at Trigger.dev is none of ours, by time zone.", ["timezone"]
)

logger = logging.getLogger(__name__)


def differs(schedule: Schedule, *, at: datetime) -> bool:
    """Also counts and logs it. `at`: when Trigger.dev answered."""
    if not schedule.active or schedule.next_run is None:
        return False
    try:
        ours = cron.next_times(schedule.cron, schedule.timezone, after=at - TOLERANCE, count=5)
    except (cron.CronError, KeyError, ValueError):
        return False  # not written by us
    if not ours or schedule.next_run in ours:
        return False
    DIFFERS.labels(schedule.timezone).inc()
    logger.error(
        "Schedule %s (%s, %s): Trigger.dev's next run is %s, ours is %s",
        *(
            schedule.id,
            schedule.cron,
            schedule.timezone,
            schedule.next_run,
            next((t for t in ours if t > at), ours[-1]),
        ),
    )
    return True
