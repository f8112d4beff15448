"""What all polls have in common. Any process may poll, at any time.

*Claim*: due rows get a later `next_poll_at`; that is the whole lease, so a process that dies loses nothing. *Read*,
with no transaction open: pages of lists, and single runs that no list has. *Commit*: what was found and the next poll
together. What has failed is put off.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

import prometheus_client
from django.db import connection, transaction
from django.db.models import F, Min, Model, QuerySet

from tasks.models import Run, RunFeed, SharedPoll, Task
from tasks.runs import due
from tasks.runs.copies import UNREADABLE, RunCopy, read_copies, read_copy
from tasks.runs.due import NEVER
from tasks.runs.store import lock_runs, lock_tasks
from tasks.trigger import errors
from tasks.trigger.client import TriggerClient
from tasks.trigger.types import RunPage

# Rows that one step claims.
BATCH = 8
LEASE = timedelta(seconds=15)
# Seconds.
MAX_CALL = 5.0
# Runs of an unwatched minute may be listed late: a poll reads back to this long before the last one.
OVERLAP = timedelta(seconds=120)
MAX_PAGE = 100
# Rows that one statement changes.
CHUNK = 500
MIN_RETRY, MAX_RETRY = timedelta(seconds=4), timedelta(seconds=300)
POLLS = prometheus_client.Counter(
    "recoup_polls", "Polls of tasks, of accounts and of the lists that serve many.", ["outcome"]
)

AnyRow = TypeVar("AnyRow", bound=Model)
Row = TypeVar("Row", Task, RunFeed)


@dataclass
class Calls:
    """`now`: one clock for all processes. `next_deadline`: of one call, in seconds of `time.monotonic()`."""

    client: TriggerClient
    now: Callable[[], datetime]
    next_deadline: Callable[[], float]

    def pages(
        self, read: Callable[..., RunPage], *, after: str | None = None, **which: Any
    ) -> Iterator[tuple[RunPage, list[RunCopy]]]:
        """Yields the pages of a list, newest first, until one has no `next`. A page can be short, or empty."""
        while True:
            page = read(**which, after=after, deadline=self.next_deadline())
            yield page, read_copies(page.runs)
            after = page.next
            if after is None:
                return

    def retrieve(self, run: Run) -> RunCopy | None:
        """None where it is not known what became of it."""
        try:
            return read_copy(self.client.retrieve_run(run.pk, deadline=self.next_deadline()))
        except errors.NotFound:
            # Replicas lag, but not for so long: Trigger.dev has forgotten it.
            if run.absent_at is not None and self.now() - run.absent_at >= due.MISSED_AFTER:
                Run.objects.filter(pk=run.pk).delete()
        except (errors.TriggerError, *UNREADABLE):
            pass
        return None


class Poller(Calls, Generic[Row]):
    """Polls rows that store when they are due. A subclass defines `read`: the calls and the transaction of one poll."""

    rows: ClassVar[Any]
    outcome: ClassVar[str]
    # The columns that a claim and a failure move.
    due_columns: ClassVar[tuple[str, ...]] = ("next_poll_at",)

    def claim(self, count: int = BATCH) -> list[Row]:
        now = self.now()
        with transaction.atomic():
            is_due = lockable(self.rows.filter(next_poll_at__lte=now).order_by("next_poll_at"))
            claimed = self.choose(is_due, now=now, count=count)
            self.put_off(self.rows.filter(pk__in=[row.pk for row in claimed]), until=now + LEASE)
        for row in claimed:
            row.next_poll_at = now + LEASE
        return claimed

    def choose(self, is_due: QuerySet[Row], *, now: datetime, count: int) -> list[Row]:
        return list(is_due.filter(watched_until__gt=now)[:count])

    def poll(self, row: Row) -> bool:
        """Whether Trigger.dev answered. Never raises for what Trigger.dev does."""
        try:
            self.attempt(row)
        except errors.TriggerError as error:
            self.postpone(row, error)
            return False
        return True

    def attempt(self, row: Row) -> None:
        """One poll, which is counted. Raises a TriggerError."""
        try:
            self.read(row)
        except errors.TriggerError:
            POLLS.labels("failed").inc()
            raise
        POLLS.labels(self.outcome).inc()

    def read(self, row: Row) -> None:
        raise NotImplementedError

    def postpone(self, row: Row, error: errors.TriggerError) -> None:
        """For as long as the stored runs are old, within bounds. Unless somebody has planned another poll meanwhile."""
        pause = max(MIN_RETRY, min(MAX_RETRY, self.now() - row.polled_at if row.polled_at else MIN_RETRY))
        if isinstance(error, errors.TooManyRequests | errors.NotSent):
            pause = max(pause, timedelta(seconds=error.retry_after))
        if row.next_poll_at is not None:
            self.put_off(self.rows.filter(pk=row.pk, next_poll_at=row.next_poll_at), until=self.now() + pause)

    def put_off(self, rows: QuerySet[Row], *, until: datetime) -> None:
        rows.update(**dict.fromkeys(self.due_columns, until))


def mark_absent(run_ids: Sequence[str], *, polled_at: datetime | None, shared_as_of: datetime) -> None:
    """Unfinished runs that nothing shows any more. Their tasks are due, and are fresh until the runs were last certain.

    That was at the last poll, else when they were stored, or at the shared list.
    """
    for start in range(0, len(run_ids), CHUNK):
        with transaction.atomic():
            runs = Run.objects.filter(pk__in=run_ids[start : start + CHUNK], is_final=False, absent_at=None)
            tasks = lock_tasks(Task.objects.filter(pk__in=runs.values("task")))
            locked = lock_runs(runs)
            certain = Run.objects.filter(pk__in=locked, absent_at=None)
            shared = certain.filter(stored_at__lt=shared_as_of - due.SHARED_GRACE)
            shared.update(absent_at=max(polled_at or NEVER, shared_as_of))
            certain.update(absent_at=polled_at or F("stored_at"))
            marked = Run.objects.filter(pk__in=locked, task__in=tasks).order_by().values_list("task")
            for task_id, since in marked.annotate(since=Min("absent_at")):
                Task.objects.filter(pk=task_id).poll_soon(at=since)


def shared_poll() -> SharedPoll:
    return SharedPoll.objects.first() or SharedPoll(next_at=NEVER)


def shared_poll_as_of() -> datetime:
    return shared_poll().as_of or NEVER


def lockable(rows: QuerySet[AnyRow]) -> QuerySet[AnyRow]:
    """Without waiting for other processes. SQLite has one writer at a time, and no SKIP LOCKED."""
    return rows.select_for_update(skip_locked=connection.features.has_select_for_update_skip_locked)
