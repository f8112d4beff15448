"""The daily work, which the worker does: a full pass over all schedules, and the deletion of what is old.

A row for each piece says when it is due. The worker that moves that time forward does the piece, so of several workers
one does it. After a worker was killed, the piece is done again when `CLAIM` has passed.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone

from tasks import bulk, idempotency
from tasks.gateway import upstream
from tasks.models import Upkeep
from tasks.retention import delete_old_runs
from tasks.schedules.pacing import Pace
from tasks.schedules.reconciliation import run_pass
from tasks.schedules.report import Options, Progress, Report, Result
from tasks.schedules.sync_lock import sync_lock

FULL_SYNC = "full pass"
DAY, CLAIM, AFTER_FAILURE = timedelta(days=1), timedelta(hours=3), timedelta(hours=1)
# Until the pass that is running has ended.
AFTER_BUSY = timedelta(minutes=1)

logger = logging.getLogger(__name__)


class Busy(Exception):
    """Another sync_schedules is running"""


class Failed(Exception):
    """The reason"""


class NoProgress(Progress):
    def wait(self, seconds: float, why: str) -> None:
        time.sleep(seconds)


def reconcile(at: datetime) -> str:
    """Compares every task with all schedules at Trigger.dev, and deletes those of ours that no task has."""
    with sync_lock(tries()) as is_locked:
        if not is_locked:
            raise Busy
        progress = NoProgress()
        pace = Pace(upstream.client(), now=timezone.now, wait=progress.wait)
        report = run_pass(Options(full=True, prune=True), pace=pace, progress=progress)
    # A task that Trigger.dev refuses is a change that failed, and its page says so. The pass has still seen everything.
    if report.problems:
        raise Failed(summary(report))
    return summary(report)


def tries() -> Iterator[None]:
    """Two minutes: longer than a small pass."""
    for _ in range(60):
        time.sleep(2)
        yield


def summary(report: Report) -> str:
    problems = f"; {'; '.join(report.problems)}" if report.problems else ""
    failed = sum(change.result is Result.FAILED for change in report.changes)
    return f"{report.tasks} tasks, {len(report.changes)} changes, {failed} of them failed{problems}"


def delete_old(at: datetime) -> str:
    before = at - timedelta(days=settings.RUN_RETENTION_DAYS)
    runs, jobs = delete_old_runs(before=before), bulk.delete_old_jobs(before=before)
    idempotency.delete_expired_keys(at=at)
    SessionStore.clear_expired()
    return f"{runs} runs and {jobs} bulk jobs were deleted"


@dataclass(frozen=True)
class Piece:
    name: str
    do: Callable[[datetime], str]


PIECES = (Piece(FULL_SYNC, reconcile), Piece("deletion of what is old", delete_old))


def step(now: Callable[[], datetime] = timezone.now) -> int:
    """Does what is due. How much that was."""
    return sum(do_if_due(piece, now) for piece in PIECES)


def do_if_due(piece: Piece, now: Callable[[], datetime]) -> bool:
    at = now()
    # The first time a day after the installation: an upgrade must not begin with it.
    Upkeep.objects.get_or_create(name=piece.name, defaults={"next_at": at + DAY})
    row = Upkeep.objects.filter(name=piece.name)
    if not row.filter(next_at__lte=at).update(next_at=at + CLAIM):
        return False
    try:
        outcome = piece.do(at)
    except Busy:
        row.update(next_at=now() + AFTER_BUSY)
        return False
    except Exception as error:
        row.update(next_at=now() + AFTER_FAILURE, outcome=f"failed: {error}" if isinstance(error, Failed) else "failed")
        raise
    row.update(next_at=at + DAY, finished_at=now(), outcome=outcome)
    logger.info("The %s has ended: %s", piece.name, outcome)
    return True


def remember_full_pass(*, at: datetime) -> None:
    """Somebody has made one by hand: the next one is due in a day."""
    values = {"next_at": at + DAY, "finished_at": at, "outcome": "by hand"}
    Upkeep.objects.update_or_create(name=FULL_SYNC, defaults=values)


def last_full_pass() -> datetime | None:
    return Upkeep.objects.filter(name=FULL_SYNC).values_list("finished_at", flat=True).first()


def state() -> Mapping[str, str]:
    """For people: when the last full pass was. Only it can know of what happened before a backup was restored."""
    last = last_full_pass()
    return {"last_full_pass": f"{last:%Y-%m-%d %H:%M} UTC" if last else "never"}
