"""The process of `bench.growth` for the stored runs of one database: lists, pages of the history, due tasks, retention.

Fills a test database to two sizes, a task for each ten runs, and prints the plans of the queries to standard error.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock
from uuid import UUID

from bench import growth_process
from bench.growth import LARGE_RUNS

# Django is set up by the import above.
from django.db import connection, transaction  # isort: skip
from django.db.models import QuerySet  # isort: skip
from django.utils import timezone  # isort: skip

from tasks.models import Run, RunOwner, Task  # isort: skip
from tasks.retention import delete_old_runs  # isort: skip
from tasks.runs import account_runs, feeds  # isort: skip

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
RUNS_PER_TASK = 10
DATA = (
    '{{"id":"{id}","status":"COMPLETED","taskIdentifier":"customer-prompt-task","version":"20261120.1","createdAt":'
    '"2026-11-24T12:00:00.000Z","updatedAt":"2026-11-24T12:00:10.000Z","tags":[],"costInCents":0.03,"durationMs":8000,'
    '"depth":0,"isTest":false,"metadata":{{"songs":["{pad}"]}}}}'
)


def fill(count: int) -> None:
    """Runs of the newest accounts first, one an hour for each task. One account has a tenth of all runs."""
    growth_process.fill(count // RUNS_PER_TASK)
    tasks = list(Task.objects.values_list("pk", "account_id").order_by("account_id", "pk"))
    big = tasks[0][1]
    existing = Run.objects.count()
    runs, owners = list[Run](), list[RunOwner]()
    for number in range(existing, count):
        task_id, account_id = tasks[number % len(tasks)]
        is_big = number % 10 == 0
        created = NOW - timedelta(minutes=number)
        run_id = f"run_{number:025d}"
        runs.append(
            Run(
                id=run_id,
                task_id=None if is_big else task_id,
                status="FAILED" if number % 50 == 0 else "COMPLETED",
                is_final=True,
                task_identifier="customer-prompt-task",
                created_at=created,
                updated_at=created,
                data=DATA.format(id=run_id, pad="x" * 200),
                is_scheduled=not is_big,
                stored_at=created,
            )
        )
        owners.append(RunOwner(run_id=run_id, account_id=big if is_big else account_id, created_at=created))
        if len(runs) == 5000 or number == count - 1:
            with transaction.atomic():
                Run.objects.bulk_create(runs, batch_size=2000)
                RunOwner.objects.bulk_create(owners, batch_size=5000)
            runs, owners = [], []
    store_newest(count, [task_id for task_id, _ in tasks])
    later = timezone.now() + timedelta(hours=1)
    Task.objects.update(next_poll_at=later, polled_at=NOW, quiet_until=later)
    due = list(Task.objects.values_list("pk", flat=True)[:20])
    Task.objects.filter(pk__in=due).update(next_poll_at=timezone.now() - timedelta(seconds=1))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def store_newest(count: int, task_ids: list[UUID]) -> None:
    """As polls do: retention has to notice when one of a task's newest runs is deleted."""
    rows = []
    for position, task_id in enumerate(task_ids):
        numbers = [number for number in range(position, count, len(task_ids)) if number % 10][:5]
        recent = ",".join(f'{{"id":"run_{number:025d}"}}' for number in numbers)
        rows.append(Task(pk=task_id, recent_runs=recent))
    Task.objects.bulk_update(rows, ["recent_runs"], batch_size=500)


def queries() -> dict[str, Callable[[], QuerySet[Run] | QuerySet[Task]]]:
    big = Task.objects.order_by("account_id", "pk").values_list("account_id", flat=True)[0]
    small = Task.objects.order_by("-account_id", "pk").values_list("account_id", flat=True)[0]
    task = Task.objects.filter(account_id=small).order_by("pk")[0]
    middle = NOW - timedelta(minutes=500)
    return {
        "newest five of a task": lambda: Run.objects.filter(task=task).order_by("-created_at", "-id")[:5],
        "newest hundred of an account": lambda: account_runs.of_account(small)[:100],
        "newest hundred of the greatest account": lambda: account_runs.of_account(big)[:100],
        "a page of its history": lambda: account_runs.of_account(big).filter(
            listed_at__lte=middle, listed_at__gte=NOW - timedelta(days=300)
        )[:50],
        "a page of its failed runs": lambda: account_runs.of_account(big).filter(status__in=["FAILED"])[:20],
        "a page of one task": lambda: account_runs.of_task(task.pk, small).filter(listed_at__lte=middle)[:50],
        "due tasks": lambda: Task.objects.filter(next_poll_at__lte=timezone.now()).order_by("next_poll_at")[:8],
        "pending tasks": lambda: Task.objects.unsettled().order_by("updated_at", "pk")[:20],
        "its unfinished runs of no task": lambda: feeds.unfinished_of(big)[:20],
    }


def measure() -> dict[str, float]:
    return {name: growth_process.median_duration(lambda make=make: list(make())) for name, make in queries().items()}  # type: ignore[misc]


def print_plans() -> None:
    for name, make in queries().items():
        print(f"--- {connection.vendor}, {name}\n{make().explain()}", file=sys.stderr)  # noqa: T201


@contextmanager
def longest_transaction() -> Iterator[list[float]]:
    """The seconds of every transaction of retention."""
    seconds, atomic = list[float](), transaction.atomic

    @contextmanager
    def timed(*args: Any, **kwargs: Any) -> Iterator[None]:
        with atomic(*args, **kwargs):
            started_at = time.perf_counter()
            yield
        seconds.append(time.perf_counter() - started_at)

    with mock.patch.object(transaction, "atomic", timed):
        yield seconds


def retention() -> str:
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started_at = time.perf_counter()
    with longest_transaction() as seconds:
        deleted = delete_old_runs(before=NOW + timedelta(days=1))
    took = time.perf_counter() - started_at
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before) / 1024
    return f"{deleted:,} runs in {took:.0f} s, longest lock {max(seconds) * 1000:.0f} ms, {memory:.0f} MB more memory"


if __name__ == "__main__":
    with growth_process.test_database():
        growth_process.compare(fill, measure, large=LARGE_RUNS)
        print_plans()
        print(f"retention of all: {retention()}", file=sys.stderr)  # noqa: T201
