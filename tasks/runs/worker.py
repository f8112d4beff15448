"""Steps of polling with the process's client and the clock of the database: for the worker and for `sync_runs`."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial

from django.db import connection, connections, transaction
from django.utils import timezone

from tasks.gateway import upstream
from tasks.gateway.budget import in_the_name_of, paid_by, payer
from tasks.models import Run, Task
from tasks.runs.polling import BATCH, MAX_CALL, Poller

# Rows that retention deletes in one transaction.
DELETE_BATCH = 1000


def database_now() -> datetime:
    """One clock for all processes. With SQLite they run on one machine."""
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (found,) = cursor.fetchone()
    return found.astimezone(UTC)


def poller(*, now: Callable[[], datetime] = database_now) -> Poller:
    return Poller(upstream.client(), now=now, next_deadline=lambda: time.monotonic() + MAX_CALL)


def poll_due() -> int:
    """One step: the shared list if it is due, and a batch of due tasks at once. How many tasks there were."""
    with paid_by("worker"):
        return poller().step(in_threads)


@cache
def threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(BATCH, thread_name_prefix="poll")


def in_threads(poll: Callable[[Task], bool], tasks: Sequence[Task]) -> None:
    def polled(task: Task) -> bool:
        try:
            return poll(task)
        finally:
            connections.close_all()

    who = payer.get()
    for future in [threads().submit(in_the_name_of(who, partial(polled, task))) for task in tasks]:
        future.result()


def in_turn(poll: Callable[[Task], bool], tasks: Sequence[Task]) -> None:
    for task in tasks:
        poll(task)


def delete_old_runs(*, before: datetime) -> int:
    """In batches, so that no transaction is long. Finished runs only."""
    deleted = 0
    while True:
        ids = list(Run.objects.filter(created_at__lt=before, is_final=True).values_list("pk", flat=True)[:DELETE_BATCH])
        if not ids:
            return deleted
        with transaction.atomic():
            Run.objects.filter(pk__in=ids).delete()
        deleted += len(ids)
