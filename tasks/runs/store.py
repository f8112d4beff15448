"""Storing copies of runs: which of two copies is newer, who owns a run, and what the row of its task says of its runs.

Trigger.dev's `updatedAt` decides between two copies. A final status is never undone by an unfinished one: answers may
come in another order than they were sent, and replicas lag behind.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from tasks.models import Run, RunOwner, Task
from tasks.runs.copies import RunCopy, is_json_object, read_copies
from tasks.trigger import types

# How many runs a list shows with a task.
RECENT = 5
# Two different copies this close together may be in either order: the clocks of Trigger.dev's servers differ by ms.
TIE = timedelta(milliseconds=100)
# What a row has of its copy.
COLUMNS = "status", "is_final", "task_identifier", "created_at", "started_at", "finished_at", "updated_at", "data"


@dataclass(frozen=True)
class FoundRun:
    """A copy, whether it was found by a schedule, and the task that it was found for."""

    copy: RunCopy
    is_scheduled: bool = False
    task: Task | None = None

    @property
    def owners(self) -> set[UUID]:
        """The accounts in the tags; else the account of the task whose schedule the run was found by."""
        if self.copy.has_account_tag or not self.is_scheduled or self.task is None:
            return set(self.copy.tagged)
        return {self.task.account_id}

    @property
    def shown_with(self) -> Task | None:
        """None where its tags give it to another account, or only a tag claims the task.

        What is left of a deleted task is followed by its account.
        """
        if self.task is None or self.task.deleted_at is not None or self.task.account_id not in self.owners:
            return None
        return self.task


def supersedes(copy: RunCopy, run: Run) -> bool:
    """Whether the copy replaces the stored one."""
    if copy.is_final != run.is_final:
        return copy.is_final
    return copy.updated_at > run.updated_at


def is_tie(copy: RunCopy, run: Run) -> bool:
    """Whether only a retrieve can tell which of two different copies is newer."""
    if copy.is_final != run.is_final or copy.status == run.status:
        return False
    return abs(copy.updated_at - run.updated_at) <= TIE


def store(
    copies: Sequence[tuple[RunCopy, bool]], task: Task, *, as_of: datetime, shared_as_of: datetime, at: datetime
) -> None:
    """Inserts or updates the runs, in the caller's transaction. Each copy comes with whether it was found by schedule.

    `as_of`: when the calls began. `at`: now. A run belongs to the task only where its account may see it.
    """
    stored = lock_runs(Run.objects.filter(pk__in=[copy.id for copy, _ in copies]))
    found = [FoundRun(copy, is_scheduled, task) for copy, is_scheduled in copies]
    write(found, stored, as_of=as_of, shared_as_of=shared_as_of, at=at)


def store_listed(
    copies: Sequence[RunCopy], *, as_of: datetime, shared_as_of: datetime, at: datetime, with_new: bool
) -> None:
    """Copies from a list about many tasks or accounts. `with_new`: also tagged runs that are not stored yet.

    Most copies of such a list say nothing new: for them no row is locked.
    """
    known = Run.objects.in_bulk([copy.id for copy in copies])
    copies = [copy for copy in copies if is_news(copy, known.get(copy.id), with_new=with_new)]
    if not copies:
        return
    ids = [copy.id for copy in copies]
    with transaction.atomic():
        tasks = lock_tasks(Task.objects.filter(pk__in=Run.objects.filter(pk__in=ids).values("task")))
        stored = lock_runs(Run.objects.filter(Q(task__in=tasks) | Q(task=None), pk__in=ids))
        write(found_in_list(copies, known, stored, tasks), stored, as_of=as_of, shared_as_of=shared_as_of, at=at)
        for task in tasks.values():
            Task.objects.filter(pk=task.pk).update(**newest_of(task))


def found_in_list(
    copies: Iterable[RunCopy], known: Collection[str], stored: Mapping[str, Run], tasks: Mapping[UUID, Task]
) -> Iterator[FoundRun]:
    """One after another: a copy that comes twice finds the run as the first one has left it."""
    for copy in copies:
        run = stored.get(copy.id)
        if run is not None:
            yield FoundRun(copy, run.is_scheduled, tasks[run.task_id] if run.task_id else None)
        elif copy.id not in known:
            yield FoundRun(copy)


def is_news(copy: RunCopy, run: Run | None, *, with_new: bool) -> bool:
    if run is None:
        return with_new and bool(copy.tagged)
    return supersedes(copy, run) or run.absent_at is not None


def write(
    found: Iterable[FoundRun], stored: Mapping[str, Run], *, as_of: datetime, shared_as_of: datetime, at: datetime
) -> None:
    """`stored`: the locked rows. Of several copies of a new run the newest is stored."""
    new, owned = dict[str, FoundRun](), list[FoundRun]()
    for one in found:
        run, former = stored.get(one.copy.id), new.get(one.copy.id)
        if run is not None:
            if is_current(one.copy, run):
                owned.append(one)
            update(run, one, as_of=as_of, shared_as_of=shared_as_of)
        elif is_kept(one.copy, at=at) and (former is None or one.copy.updated_at >= former.copy.updated_at):
            new[one.copy.id] = replace(one, is_scheduled=one.is_scheduled or bool(former and former.is_scheduled))
    insert(new.values(), at=at)
    store_owners([*owned, *new.values()])


def is_kept(copy: RunCopy, *, at: datetime) -> bool:
    """Not what the next deletion of old runs would delete."""
    return not copy.is_final or copy.created_at >= at - timedelta(days=settings.RUN_RETENTION_DAYS)


def insert(found: Iterable[FoundRun], *, at: datetime) -> None:
    """In one order everywhere, as for locks: of two transactions with the same new runs the second one waits."""
    rows = [
        Run(id=one.copy.id, task=one.shown_with, is_scheduled=one.is_scheduled, stored_at=at, **columns(one.copy))
        for one in sorted(found, key=lambda one: one.copy.id)
    ]
    Run.objects.bulk_create(rows, ignore_conflicts=True)


def store_owners(found: Iterable[FoundRun]) -> None:
    """What a current copy says of its owners: tags name all of them, else a schedule one more."""
    newest = {one.copy.id: one for one in found}
    stored = defaultdict[str, dict[UUID, RunOwner]](dict)
    for owner in RunOwner.objects.filter(run__in=newest):
        stored[owner.run_id][owner.account_id] = owner
    new, wrong = list[RunOwner](), list[int]()
    for copy_id, one in sorted(newest.items()):
        copy, owners, known = one.copy, one.owners, stored[copy_id]
        moved = {account_id for account_id, owner in known.items() if owner.created_at != copy.created_at}
        former = known.keys() - owners if copy.has_account_tag else set[UUID]()
        wrong += [known[account_id].pk for account_id in former | moved]
        added = (owners - known.keys()) | (moved - former)
        new += [RunOwner(run_id=copy.id, account_id=pk, created_at=copy.created_at) for pk in added]
    if wrong:
        RunOwner.objects.filter(pk__in=wrong).delete()
    RunOwner.objects.bulk_create(new, ignore_conflicts=True)


def store_retrieved(item: types.Run, owners: Collection[UUID], *, as_of: datetime) -> None:
    """A run that was retrieved by id: lists show it like everybody else, and also while Trigger.dev is away."""
    copies = read_copies([item])
    for copy in copies:
        run = Run.objects.filter(pk=copy.id).first()
        if run is None and owners and is_kept(copy, at=as_of):
            with transaction.atomic():
                insert([FoundRun(copy)], at=as_of)
                rows = [RunOwner(run_id=copy.id, account_id=pk, created_at=copy.created_at) for pk in owners]
                RunOwner.objects.bulk_create(rows, ignore_conflicts=True)
        elif run is not None:
            store_listed(copies, as_of=as_of, shared_as_of=as_of - TIE, at=as_of, with_new=False)
            if copy.has_account_tag and is_current(copy, run):
                store_owners([FoundRun(copy, run.is_scheduled)])


def is_current(copy: RunCopy, run: Run) -> bool:
    """Whether the copy may say whose run it is: an older one without a tag must not give the run back."""
    return copy.updated_at >= run.updated_at


def lock_tasks(tasks: QuerySet[Task]) -> dict[UUID, Task]:
    """Before their runs are written, and in one order everywhere: no two transactions wait for each other."""
    return {task.pk: task for task in tasks.select_for_update().order_by("pk")}


def lock_runs(runs: QuerySet[Run]) -> dict[str, Run]:
    """After their tasks, and in one order everywhere."""
    return {run.pk: run for run in runs.select_for_update().order_by("pk").defer("data")}


def newest_of(task: Task) -> dict[str, str]:
    """The columns of a task that hold its newest runs. The task is locked, or a newer run could be overwritten."""
    newest = list(Run.objects.filter(task=task).order_by("-created_at", "-id").values_list("data", "status")[:RECENT])
    return {
        "recent_runs": ",".join(data for data, _ in newest if is_json_object(data)),
        "last_run_status": newest[0][1] if newest else "",
    }


def columns(copy: RunCopy) -> dict[str, Any]:
    return {name: getattr(copy, name) for name in COLUMNS}


def update(run: Run, found: FoundRun, *, as_of: datetime, shared_as_of: datetime) -> None:
    copy, task = found.copy, found.task
    changes: dict[str, Any] = columns(copy) if supersedes(copy, run) else {}
    is_final = run.is_final or copy.is_final
    if run.absent_at is not None and as_of >= run.absent_at and not is_tie(copy, run):
        # A list that began before the last shared one does not clear the mark: that one lacked the run.
        changes["absent_at"] = None if is_final or as_of > shared_as_of else as_of
    if task is not None and is_current(copy, run):
        if run.task_id is None and found.shown_with is not None:
            changes["task"] = task
        elif run.task_id == task.pk and copy.has_account_tag and found.shown_with is None:
            # Tags that came later give the run to another account.
            changes["task"] = None
    if found.is_scheduled and not run.is_scheduled:
        changes["is_scheduled"] = True
    if changes:
        Run.objects.filter(pk=run.pk).update(**changes)
        for name, value in changes.items():
            setattr(run, name, value)
