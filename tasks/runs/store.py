"""Storing copies of runs: which of two copies is newer, who owns a run, and what the row of its task says of its runs.

Trigger.dev's `updatedAt` decides between two copies. A final status is never undone by an unfinished one: answers may
come in another order than they were sent, and replicas lag behind.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import prometheus_client
from django.db import transaction
from django.db.models import Q, QuerySet

from core.text import parse_timestamp
from tasks.models import Run, RunOwner, Task
from tasks.runs.owners import account_tags, tagged_accounts
from tasks.trigger import types
from tasks.trigger.responses import as_text

# Trigger.dev's own isCompleted is false for the last two (recorded: run_get_14_EXPIRED, run_get_15_TIMED_OUT).
FAILED = frozenset(("FAILED", "CRASHED", "SYSTEM_FAILURE", "TIMED_OUT", "EXPIRED", "INTERRUPTED"))
FINAL = FAILED | {"COMPLETED", "CANCELED"}
# Addresses in a retrieved run, which expire.
PRESIGNED = ("payloadPresignedUrl", "outputPresignedUrl")
LEFT_OUT_OF_LISTS = ("payload", "output", "error", "attempts", "schedule", "relatedRuns", *PRESIGNED)
# How many runs a list shows with a task.
RECENT = 5
# Characters of a status that a row keeps.
MAX_STATUS = 40
# Bytes. A larger item is stored without its metadata.
MAX_DATA = 64 * 1024
# Two different copies this close together may be in either order: the clocks of Trigger.dev's servers differ by ms.
TIE = timedelta(milliseconds=100)
# What a copy that is not as it should be raises.
UNREADABLE = (KeyError, TypeError, ValueError, RecursionError)
SKIPPED = prometheus_client.Counter("recoup_runs_skipped", "Listed runs that could not be stored.", ["reason"])

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunCopy:
    """One answer about a run. `tagged`: the accounts in its tags; `has_account_tag`: also if they are no valid ids."""

    id: str
    status: str
    task_identifier: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    tagged: frozenset[UUID]
    has_account_tag: bool
    data: str

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


# What a row has of its copy.
COLUMNS = "status", "is_final", "task_identifier", "created_at", "started_at", "finished_at", "updated_at", "data"
# A copy with whether it was found by schedule, and the task that it was found for.
Found = tuple[RunCopy, bool, Task | None]


def read_copies(items: Iterable[types.Run]) -> list[RunCopy]:
    """Items of a list. One that lacks what a row needs is skipped and counted; the others are stored."""
    found = []
    for item in items:
        try:
            found.append(read_copy(item))
        except UNREADABLE as error:
            SKIPPED.labels(type(error).__name__).inc()
            logger.warning("A listed run could not be stored: %s", type(error).__name__)
    return found


def read_copy(item: types.Run) -> RunCopy:
    """Raises one of UNREADABLE for an item without id, status or createdAt."""
    raw: dict[str, Any] = dict(item)
    created_at = parse_timestamp(raw["createdAt"])
    return RunCopy(
        id=raw["id"],
        status=as_text(raw["status"])[:MAX_STATUS],
        task_identifier=as_text(raw.get("taskIdentifier"))[:200],
        created_at=created_at,
        started_at=optional_timestamp(raw.get("startedAt")),
        finished_at=optional_timestamp(raw.get("finishedAt")),
        updated_at=optional_timestamp(raw.get("updatedAt")) or created_at,
        tagged=frozenset(tagged_accounts(item)),
        has_account_tag=bool(account_tags(item)),
        data=data_of(raw),
    )


def optional_timestamp(text: Any) -> datetime | None:
    try:
        return parse_timestamp(text)
    except (TypeError, ValueError):
        return None


def data_of(raw: dict[str, Any]) -> str:
    """The item as JSON text, without what a list never has; over MAX_DATA also without its metadata."""
    item = {key: value for key, value in raw.items() if key not in LEFT_OUT_OF_LISTS}
    text = encode(item)
    if len(text.encode()) > MAX_DATA:
        text = encode({**{key: value for key, value in item.items() if key != "metadata"}, "metadataOmitted": True})
    if len(text.encode()) > MAX_DATA:
        raise ValueError("too large")
    return text


def encode(value: Any) -> str:
    """orjson refuses half of a surrogate pair and numbers over 64 bits, which Trigger.dev can send."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, separators=(",", ":"))


def owners_of(copy: RunCopy, task: Task | None, *, is_scheduled: bool) -> set[UUID]:
    """The accounts in the tags; else the account of the task whose schedule the run was found by."""
    if copy.has_account_tag or not is_scheduled or task is None:
        return set(copy.tagged)
    return {task.account_id}


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
    copies: Sequence[tuple[RunCopy, bool]], task: Task | None, *, as_of: datetime, shared_as_of: datetime, at: datetime
) -> None:
    """Inserts or updates the runs, in the caller's transaction. Each copy comes with whether it was found by schedule.

    `as_of`: when the calls began. `at`: now. A run belongs to the task only where its account may see it.
    """
    stored = lock_runs(Run.objects.filter(pk__in=[copy.id for copy, _ in copies]))
    found = [(copy, is_scheduled, task) for copy, is_scheduled in copies]
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
        found = list[Found]()
        for copy in copies:
            run = stored.get(copy.id)
            if run is not None:
                found.append((copy, run.is_scheduled, tasks[run.task_id] if run.task_id else None))
            elif copy.id not in known:
                found.append((copy, False, None))
        write(found, stored, as_of=as_of, shared_as_of=shared_as_of, at=at)
        for task in tasks.values():
            Task.objects.filter(pk=task.pk).update(**newest_of(task))


def is_news(copy: RunCopy, run: Run | None, *, with_new: bool) -> bool:
    if run is None:
        return with_new and bool(copy.tagged)
    return supersedes(copy, run) or run.absent_at is not None


def write(
    found: Iterable[Found], stored: Mapping[str, Run], *, as_of: datetime, shared_as_of: datetime, at: datetime
) -> None:
    """`stored`: the locked rows. Of several copies of a new run the newest is stored."""
    new, owned = dict[str, Found](), list[Found]()
    for copy, is_scheduled, task in found:
        run = stored.get(copy.id)
        if run is not None:
            if is_current(copy, run):
                owned.append((copy, is_scheduled, task))
            update(run, copy, task, is_scheduled=is_scheduled, as_of=as_of, shared_as_of=shared_as_of)
            continue
        former = new.get(copy.id)
        if former is None or copy.updated_at >= former[0].updated_at:
            new[copy.id] = (copy, is_scheduled or bool(former and former[1]), task)
    insert(new.values(), at=at)
    store_owners([*owned, *new.values()])


def insert(found: Iterable[Found], *, at: datetime) -> None:
    rows = [
        Run(
            id=copy.id,
            task=task_shown_with(copy, task, is_scheduled=is_scheduled),
            is_scheduled=is_scheduled,
            stored_at=at,
            **columns(copy),
        )
        for copy, is_scheduled, task in found
    ]
    Run.objects.bulk_create(rows, ignore_conflicts=True)


def store_owners(owned: Iterable[Found]) -> None:
    """What a current copy says of its owners: tags name all of them, else a schedule one more."""
    newest = {copy.id: (copy, is_scheduled, task) for copy, is_scheduled, task in owned}
    stored = defaultdict[str, dict[UUID, RunOwner]](dict)
    for owner in RunOwner.objects.filter(run__in=newest):
        stored[owner.run_id][owner.account_id] = owner
    new, wrong = list[RunOwner](), list[int]()
    for copy, is_scheduled, task in newest.values():
        owners, known = owners_of(copy, task, is_scheduled=is_scheduled), stored[copy.id]
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
        if run is None and owners:
            with transaction.atomic():
                insert([(copy, False, None)], at=as_of)
                rows = [RunOwner(run_id=copy.id, account_id=pk, created_at=copy.created_at) for pk in owners]
                RunOwner.objects.bulk_create(rows, ignore_conflicts=True)
        elif run is not None:
            store_listed(copies, as_of=as_of, shared_as_of=as_of - TIE, at=as_of, with_new=False)
            if copy.has_account_tag and is_current(copy, run):
                store_owners([(copy, run.is_scheduled, None)])


def is_current(copy: RunCopy, run: Run) -> bool:
    """Whether the copy may say whose run it is: an older one without a tag must not give the run back."""
    return copy.updated_at >= run.updated_at


def lock_tasks(tasks: QuerySet[Task]) -> dict[UUID, Task]:
    """Before their runs are written, and in one order everywhere: no two transactions wait for each other."""
    return {task.pk: task for task in tasks.select_for_update().order_by("pk")}


def lock_runs(runs: QuerySet[Run]) -> dict[str, Run]:
    """After their tasks, and in one order everywhere."""
    return {run.pk: run for run in runs.select_for_update().order_by("pk")}


def newest_of(task: Task) -> dict[str, str]:
    """The columns of a task that hold its newest runs. The task is locked, or a newer run could be overwritten."""
    newest = list(Run.objects.filter(task=task).order_by("-created_at", "-id").values_list("data", "status")[:RECENT])
    return {
        "recent_runs": ",".join(data for data, _ in newest if is_json_object(data)),
        "last_run_status": newest[0][1] if newest else "",
    }


def is_json_object(text: str) -> bool:
    """False for a damaged row, which must not break the list that it is in."""
    for loads in (orjson.loads, partial(json.loads, parse_constant=refuse)):  # orjson refuses half of a surrogate pair
        try:
            if text[:1] == "{" and text[-1:] == "}" and "id" in loads(text):
                return True
        except (TypeError, ValueError, RecursionError):
            continue
    SKIPPED.labels("damaged").inc()
    return False


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def columns(copy: RunCopy) -> dict[str, Any]:
    return {name: getattr(copy, name) for name in COLUMNS}


def task_shown_with(copy: RunCopy, task: Task | None, *, is_scheduled: bool) -> Task | None:
    """A run that its tags give to another account, or that only claims the task by a tag, is not shown under it."""
    if task is None or task.deleted_at is not None:
        return None  # what is left of a deleted task is followed by its account
    if task.account_id not in owners_of(copy, task, is_scheduled=is_scheduled):
        return None
    return task


def update(
    run: Run, copy: RunCopy, task: Task | None, *, is_scheduled: bool, as_of: datetime, shared_as_of: datetime
) -> None:
    changes: dict[str, Any] = columns(copy) if supersedes(copy, run) else {}
    is_final = run.is_final or copy.is_final
    if run.absent_at is not None and as_of >= run.absent_at and not is_tie(copy, run):
        # A list that began before the last shared one does not clear the mark: that one lacked the run.
        changes["absent_at"] = None if is_final or as_of > shared_as_of else as_of
    if task is not None and is_current(copy, run):
        is_shown = task_shown_with(copy, task, is_scheduled=is_scheduled) is not None
        if run.task_id is None and is_shown:
            changes["task"] = task
        elif run.task_id == task.pk and copy.has_account_tag and not is_shown:
            # Tags that came later give the run to another account.
            changes["task"] = None
    if is_scheduled and not run.is_scheduled:
        changes["is_scheduled"] = True
    if changes:
        Run.objects.filter(pk=run.pk).update(**changes)
        for name, value in changes.items():
            setattr(run, name, value)
