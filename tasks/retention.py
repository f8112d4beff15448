"""Deletes old runs and what belongs to them, in batches, so that no transaction is long."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from tasks.models import MissedRun, Run, RunOwner, RunRequest, SyncFailure, Task
from tasks.runs.store import lock_tasks, newest_of

# Rows that one transaction deletes.
BATCH = 500
RUN_ID = re.compile(r"run_\w+")


def delete_old_runs(*, before: datetime) -> int:
    """Finished runs only, the oldest first. How many."""
    deleted = 0
    delete_in_batches(RunRequest.objects.filter(requested_at__lt=before).order_by("requested_at"))
    delete_in_batches(MissedRun.objects.filter(expected_at__lt=before).order_by("expected_at"))
    delete_in_batches(SyncFailure.objects.filter(at__lt=before).order_by("at"))
    while True:
        old = Run.objects.filter(created_at__lt=before, is_final=True).order_by("created_at")
        ids = list(old.values_list("pk", flat=True)[:BATCH])
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
    while batch := list(rows.values_list("pk", flat=True)[:BATCH]):
        rows.model._base_manager.filter(pk__in=batch).delete()


def showing_one_of(tasks: Iterable[Task], run_ids: set[str]) -> list[Task]:
    """The tasks that may have one of these runs among their newest."""
    return [task for task in tasks if not run_ids.isdisjoint(RUN_ID.findall(task.recent_runs))]
