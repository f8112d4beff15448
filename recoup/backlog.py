"""What waits, and for how long: gauges that /metrics reads from the database, at most every ten seconds."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import Error
from django.db.models import F, QuerySet
from django.utils import timezone
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily

from accounts.models import Event
from tasks import upkeep
from tasks.models import BulkJob, MissedRun, Run, Task
from tasks.runs.copies import FAILED

CACHED_FOR = 10.0  # seconds
# Counting ends here: the alerts are about much less.
MAX_COUNTED = 10_000
# A poll is overdue when it should have happened this long ago.
OVERDUE_AFTER = timedelta(minutes=1)
DAY = timedelta(days=1)


def counted(rows: QuerySet[Any]) -> int:
    return rows.order_by().values("pk")[:MAX_COUNTED].count()


def age(rows: QuerySet[Any], column: str, *, at: datetime) -> float:
    """Of the oldest, in seconds; 0 where there is none."""
    oldest = rows.order_by(column).values_list(column, flat=True).first()
    return max(0.0, (at - oldest).total_seconds()) if oldest else 0.0


def values(at: datetime) -> Mapping[str, tuple[str, float]]:
    """By name: what it means, and the value."""
    # One that Trigger.dev refuses waits for a person, and no time helps.
    unsettled = Task.objects.unsettled().exclude(refused_generation__isnull=False, refused_generation=F("generation"))
    overdue = Task.objects.filter(next_poll_at__lt=at - OVERDUE_AFTER)
    failed = Run.objects.filter(created_at__gte=at - DAY, status__in=FAILED)
    missed = MissedRun.objects.filter(expected_at__gte=at - DAY, expected_at__lte=at)
    last = upkeep.last_full_pass()
    newest_event = Event.objects.order_by("-pk").values_list("pk", flat=True).first()
    return {
        "recoup_unsettled_tasks": ("Tasks that Trigger.dev is not known to hold.", counted(unsettled)),
        "recoup_unsettled_age_seconds": ("Since the oldest of them was changed.", age(unsettled, "updated_at", at=at)),
        "recoup_overdue_polls": ("Tasks whose poll is due for more than a minute.", counted(overdue)),
        "recoup_overdue_poll_age_seconds": ("Since the oldest of them was due.", age(overdue, "next_poll_at", at=at)),
        "recoup_failed_runs_day": ("Runs of the last day that failed.", counted(failed)),
        "recoup_missed_runs_day": ("Times of the last day at which no run came.", counted(missed)),
        "recoup_unfinished_jobs": ("Bulk jobs that go on.", counted(BulkJob.objects.filter(finished_at=None))),
        "recoup_newest_event": ("The number of the newest event: how many there were.", newest_event or 0),
        "recoup_full_pass_age_seconds": (
            "Since the last full pass over the schedules; infinite before the first.",
            (at - last).total_seconds() if last else float("inf"),
        ),
    }


class Gauges:
    """For the exporter. The library's own gauges would also be written to the files that the workers share."""

    def __init__(self, found: Mapping[str, tuple[str, float]]) -> None:
        self.found = found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, (meaning, value) in self.found.items():
            yield GaugeMetricFamily(name, meaning, value)


class Backlog:
    """The text of the gauges. While the database is away it is empty, and /metrics tells the rest."""

    def __init__(self, read: Callable[[datetime], Mapping[str, tuple[str, float]]] = values) -> None:
        self._read, self._lock = read, threading.Lock()
        self._text, self._until = b"", 0.0

    def text(self) -> bytes:
        with self._lock:
            if time.monotonic() >= self._until:
                self._text, self._until = self._rendered(), time.monotonic() + CACHED_FOR
            return self._text

    def _rendered(self) -> bytes:
        try:
            found = self._read(timezone.now())
        except Error:
            return b""
        return generate_latest(Gauges(found))


backlog = Backlog()
