"""Creating, updating and deleting a task: the row and its generation in one transaction, then one attempt to settle.

A write stands whatever Trigger.dev does, and is settled later if need be. Only a cron expression or a time zone that
Trigger.dev refuses undoes it.
"""

from collections.abc import Callable, Mapping
from copy import copy
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, OuterRef, Subquery
from django.db.models.functions import Coalesce

from accounts.events import CREATED, DELETED, Actor, record, record_change, snapshot
from tasks import limits
from tasks.cron import calendar
from tasks.models import Run, SyncStatus, Task, TaskCreation, TaskQuerySet
from tasks.runs import task_polls
from tasks.runs.store import lock_tasks
from tasks.schedules.settling import ATTEMPT_WITHIN, settle

SCHEDULE_FIELDS = ("schedule", "timezone")
# What decides when a task fires.
FIRE_FIELDS = (*SCHEDULE_FIELDS, "enabled")


class TaskGone(Exception):
    """The task was deleted meanwhile"""


class ScheduleRefused(Exception):
    """Trigger.dev refuses the cron expression or the time zone"""


def create_task(
    fields: Mapping[str, Any],
    *,
    actor: Actor,
    at: datetime,
    within: float = ATTEMPT_WITHIN,
    alongside: Callable[[Task], None] | None = None,
) -> Task:
    """Raises ScheduleRefused, PlanLimit and TooManyBytes, and then there is no task.

    `alongside` writes in the same transaction.
    """
    with transaction.atomic():
        limits.check_new(account_id_of(fields), fields, at=at)
        task = Task(**fields, created_at=at, schedule_changed_at=at)
        task.fire_periods = calendar_after(task, {}, at=at)
        for name, value in task_polls.initial_plan(task, at=at).items():
            setattr(task, name, value)
        task.save(force_insert=True)
        record(CREATED, task, account_id=task.account_id, actor=actor, at=at, after=snapshot(task))
        if alongside is not None:
            alongside(task)
    outcome = settle(task.pk, at=at, within=within)
    # If somebody has changed the task meanwhile, it stays, with the status `refused`.
    if outcome.refusal and undo_creation(task, actor=actor, at=at, reason=outcome.refusal):
        raise ScheduleRefused(outcome.refusal)
    return task


def account_id_of(fields: Mapping[str, Any]) -> UUID:
    return fields["account_id"] if "account_id" in fields else fields["account"].pk


def undo_creation(created: Task, *, actor: Actor, at: datetime, reason: str) -> bool:
    """Removes the row, or marks it deleted where it may have left a trace elsewhere. False where it was changed."""
    with transaction.atomic():
        row = Task.objects.living().select_for_update().filter(pk=created.pk, generation=1).first()
        if row is None:
            return False
        TaskCreation.objects.filter(task=row).delete()
        record_deletion(row, actor=actor, at=at, reason=f"Trigger.dev refuses the schedule: {reason}")
        if row.synced_generation or row.unsettled_until or row.run_by_hand_at:
            mark_deleted(Task.objects.filter(pk=row.pk), at=at)
        else:
            row.delete()
    return True


def mark_deleted(tasks: TaskQuerySet, *, at: datetime) -> int:
    """It is not polled any more: its account's feed follows its unfinished runs, certain as of the last poll."""
    polled_at = Subquery(Task.objects.filter(pk=OuterRef("task_id")).values("polled_at")[:1])
    hidden = {"title": "", "prompt": "", "next_poll_at": None, "watched_poll_at": None, "watched_until": None}
    with transaction.atomic():
        living = list(lock_tasks(tasks.living()))
        unfinished = Run.objects.filter(task__in=living, is_final=False)
        unfinished.update(absent_at=Coalesce("absent_at", polled_at, "stored_at"), task=None)
        rows = Task.objects.filter(pk__in=living)
        return rows.update(**hidden, deleted_at=at, updated_at=at, generation=F("generation") + 1, settle_after=None)


def update_task(
    task: Task,
    changes: Mapping[str, Any],
    *,
    actor: Actor,
    at: datetime,
    within: float = ATTEMPT_WITHIN,
    reason: str = "",
    alongside: Callable[[], object] | None = None,
) -> None:
    """Writes only the named columns. Trigger.dev is called only for FIRE_FIELDS, and where the task is not in sync.

    `alongside` writes in the same transaction. Raises TaskGone, PlanLimit and TooManyBytes. Raises ScheduleRefused
    where the changes name the schedule or the time zone; these then have their former values again, unless somebody
    else has written meanwhile.
    """
    if not changes:
        return
    with transaction.atomic():
        row = Task.objects.living().select_for_update().filter(pk=task.pk).first()
        if row is None:
            raise TaskGone
        limits.check_change(row, changes, at=at)
        former = {name: getattr(row, name) for name in (*changes, "updated_at", "schedule_changed_at")}
        timestamps = {"updated_at": at}
        if any(name in changes and changes[name] != former[name] for name in SCHEDULE_FIELDS):
            timestamps["schedule_changed_at"] = at
        written = Task.objects.filter(pk=task.pk)
        written.update(**changes, **timestamps)
        record_update(row, changes, actor=actor, at=at, reason=reason)
        if alongside is not None:
            alongside()
        if row.sync_status is SyncStatus.IN_SYNC and not any(name in changes for name in FIRE_FIELDS):
            return
        written.update(generation=F("generation") + 1, settle_after=None)
        if any(name in changes and changes[name] != getattr(row, name) for name in FIRE_FIELDS):
            written.update(fire_periods=calendar_after(row, changes, at=at))
            written.poll_soon(at=at)
    outcome = settle(task.pk, at=at, within=within)
    if outcome.refusal and any(name in changes for name in SCHEDULE_FIELDS):
        refused = Task.objects.living().filter(pk=task.pk, generation=row.generation + 1)
        former["fire_periods"] = row.fire_periods
        refusal = f"Trigger.dev refuses the schedule: {outcome.refusal}"
        with transaction.atomic():
            changed = refused.select_for_update().first()
            is_undone = refused.update(**former, refused_generation=None, sync_error="", generation=F("generation") + 1)
            if changed is not None:
                record_update(changed, {name: former[name] for name in changes}, actor=actor, at=at, reason=refusal)
        if is_undone:
            settle(task.pk, at=at, within=within)
            raise ScheduleRefused(outcome.refusal)


def calendar_after(task: Task, changes: Mapping[str, Any], *, at: datetime) -> list[dict[str, Any]]:
    """When the task can have fired, after these changes of a row."""
    values = {name: changes.get(name, getattr(task, name)) for name in FIRE_FIELDS}
    schedule = None if values["enabled"] is False else values["schedule"]
    periods = [] if task._state.adding else task.calendar
    return calendar.to_json(calendar.change(periods, schedule, values["timezone"], at=at))


def record_update(row: Task, changes: Mapping[str, Any], *, actor: Actor, at: datetime, reason: str = "") -> None:
    """`row` has the values before the changes."""
    before = snapshot(row)
    after = copy(row)
    for name, value in changes.items():
        setattr(after, name, value)
    record_change(after, before, account_id=row.account_id, actor=actor, at=at, reason=reason)


def record_deletion(row: Task, *, actor: Actor, at: datetime, reason: str = "") -> None:
    record(DELETED, row, account_id=row.account_id, actor=actor, at=at, before=snapshot(row), reason=reason)


def delete_task(task: Task, *, actor: Actor, at: datetime, within: float = ATTEMPT_WITHIN, reason: str = "") -> None:
    """Hides the task everywhere at once. Its row stays, without title and prompt: it tells whose runs those were."""
    with transaction.atomic():
        for row in lock_tasks(Task.objects.living().filter(pk=task.pk)).values():
            record_deletion(row, actor=actor, at=at, reason=reason)
            mark_deleted(Task.objects.filter(pk=row.pk), at=at)
    settle(task.pk, at=at, within=within)
