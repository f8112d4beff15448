"""Steps of polling with the process's client and the clock of the database: for the worker and for `sync_runs`."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection, connections, transaction
from django.db.models import QuerySet
from django.utils import timezone

from tasks.gateway import upstream
from tasks.models import MissedRun, Run, RunOwner, RunRequest, SyncFailure, Task
from tasks.runs.feeds import FeedPoller
from tasks.runs.polling import BATCH, MAX_CALL, Calls, Poller
from tasks.runs.shared import SharedPoller
from tasks.runs.store import lock_tasks, newest_of

# Rows that retention deletes in one transaction.
DELETE_BATCH = 500
RUN_ID = re.compile(r"run_\w+")

Row = TypeVar("Row")
Answer = TypeVar("Answer")

_lock = threading.Lock()
_running = list[Future[None]]()

logger = logging.getLogger(__name__)


def database_now() -> datetime:
    """One clock for all processes. With SQLite they run on one machine."""
    if connection.vendor != "postgresql" or not settings.USE_DATABASE_CLOCK:
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (found,) = cursor.fetchone()
    return found.astimezone(UTC)


AnyCalls = TypeVar("AnyCalls", bound=Calls)


def made(kind: type[AnyCalls], *, now: Callable[[], datetime] = database_now) -> AnyCalls:
    """A poller of this kind, with the process's client."""
    return kind(upstream.client(), now, lambda: time.monotonic() + MAX_CALL)


def poll_due() -> int:
    """One step: the lists that serve many, and a batch of accounts and of tasks. How many of these were due."""
    poll_lists()
    return made(FeedPoller).step(in_threads) + made(Poller).step(in_threads)


def poll_lists() -> None:
    """In a thread of their own, since they can be long. Inside a transaction at once."""
    if connection.in_atomic_block:
        read_lists()
        return
    with _lock:
        running: list[Future[None]] = [one for one in _running if not one.done()]
        _running[:] = running or [threads().submit(with_own_connection(lambda _: read_lists()), None)]


def read_lists() -> None:
    for read in (made(FeedPoller).poll_newest, made(SharedPoller).poll):
        try:
            read()
        except Exception:  # accounts and tasks are polled all the same
            logger.exception("A list that serves many could not be read")


def finish() -> None:
    """Waits until every poll of this process has ended."""
    threads().shutdown()
    threads.cache_clear()


@cache
def threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(BATCH + 1, thread_name_prefix="poll")


def in_threads(poll: Callable[[Row], bool], rows: Sequence[Row]) -> None:
    """All at once. Inside a transaction one after another: other threads would not see its rows."""
    if connection.in_atomic_block:
        in_turn(poll, rows)
        return
    for future in [threads().submit(with_own_connection(poll), row) for row in rows]:
        future.result()


def with_own_connection(poll: Callable[[Row], Answer]) -> Callable[[Row], Answer]:
    """For a thread of the pool, which must not keep a database connection."""

    def polled(row: Row) -> Answer:
        try:
            return poll(row)
        finally:
            connections.close_all()

    return polled


def in_turn(poll: Callable[[Row], bool], rows: Sequence[Row]) -> None:
    for row in rows:
        poll(row)


def delete_old_runs(*, before: datetime) -> int:
    """In batches, so that no transaction is long. Finished runs only, the oldest first."""
    deleted = 0
    delete_in_batches(RunRequest.objects.filter(requested_at__lt=before).order_by("requested_at"))
    delete_in_batches(MissedRun.objects.filter(expected_at__lt=before).order_by("expected_at"))
    delete_in_batches(SyncFailure.objects.filter(at__lt=before).order_by("at"))
    while True:
        old = Run.objects.filter(created_at__lt=before, is_final=True).order_by("created_at")
        ids = list(old.values_list("pk", flat=True)[:DELETE_BATCH])
        if not ids:
            return deleted
        with transaction.atomic():
            tasks = lock_tasks(Task.objects.filter(pk__in=Run.objects.filter(pk__in=ids).values("task")))
            showing = showing_one_of(tasks.values(), set(ids))
            RunOwner.objects.filter(run__in=ids)._raw_delete(RunOwner.objects.db)
            Run.objects.filter(pk__in=ids)._raw_delete(Run.objects.db)
            for task in showing:
                Task.objects.filter(pk=task.pk).update(**newest_of(task))
        deleted += len(ids)


def delete_in_batches(rows: QuerySet[Any]) -> None:
    while batch := list(rows.values_list("pk", flat=True)[:DELETE_BATCH]):
        rows.model._base_manager.filter(pk__in=batch).delete()


def showing_one_of(tasks: Iterable[Task], run_ids: set[str]) -> list[Task]:
    """The tasks that may have one of these runs among their newest."""
    return [task for task in tasks if not run_ids.isdisjoint(RUN_ID.findall(task.recent_runs))]
