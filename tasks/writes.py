"""Creating, changing and deleting a task: the row and its generation in one transaction, then one attempt to settle.

Whatever Trigger.dev does, the write stands, and is settled later; only a cron or a zone that it refuses is undone.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from tasks.models import Task, TaskCreation, TaskQuerySet
from tasks.schedules.settling import ATTEMPT_WITHIN, settle

SCHEDULE_FIELDS = ("schedule", "timezone")


class TaskGone(Exception):
    """The task has been deleted meanwhile"""


class ScheduleRefused(Exception):
    """Trigger.dev does not take the cron or the time zone"""


def create(
    fields: Mapping[str, Any],
    *,
    at: datetime,
    within: float = ATTEMPT_WITHIN,
    alongside: Callable[[Task], None] | None = None,
) -> Task:
    """Raises ScheduleRefused, and then there is no task. `alongside` writes in the task's own transaction."""
    with transaction.atomic():
        task = Task.objects.create(**fields, created_at=at, schedule_changed_at=at)
        if alongside is not None:
            alongside(task)
    outcome = settle(task.pk, at=at, within=within)
    # Somebody who has changed it meanwhile wants it: then it stays, and says that it is refused.
    if outcome.refusal and undo(task, at=at):
        raise ScheduleRefused(outcome.refusal)
    return task


def undo(created: Task, *, at: datetime) -> bool:
    """The row goes, unless it may have left a trace elsewhere: then it stays as the mark of a deletion.

    False where somebody has changed it meanwhile.
    """
    with transaction.atomic():
        row = Task.objects.living().select_for_update().filter(pk=created.pk, generation=1).first()
        if row is None:
            return False
        TaskCreation.objects.filter(task=row).delete()
        if row.synced_generation or row.unsettled_until or row.run_by_hand_at:
            hide(Task.objects.filter(pk=row.pk), at=at)
        else:
            row.delete()
    return True


def hide(tasks: TaskQuerySet, *, at: datetime) -> int:
    return tasks.living().update(deleted_at=at, title="", prompt="", updated_at=at, generation=F("generation") + 1)


def change(task: Task, changes: Mapping[str, Any], *, at: datetime, within: float = ATTEMPT_WITHIN) -> None:
    """Writes only the columns that are named.

    Raises TaskGone; and ScheduleRefused where the changes name the schedule or the zone, which then have their former
    values again, unless somebody else has written meanwhile.
    """
    if not changes:
        return
    with transaction.atomic():
        row = Task.objects.living().select_for_update().filter(pk=task.pk).first()
        if row is None:
            raise TaskGone
        former = {name: getattr(row, name) for name in (*changes, "updated_at", "schedule_changed_at")}
        moments = {"updated_at": at}
        if any(name in changes and changes[name] != former[name] for name in SCHEDULE_FIELDS):
            moments["schedule_changed_at"] = at
        Task.objects.filter(pk=task.pk).update(**changes, **moments, generation=F("generation") + 1)
    outcome = settle(task.pk, at=at, within=within)
    if outcome.refusal and any(name in changes for name in SCHEDULE_FIELDS):
        written = Task.objects.living().filter(pk=task.pk, generation=row.generation + 1)
        if written.update(**former, refused_generation=None, sync_error="", generation=F("generation") + 1):
            settle(task.pk, at=at, within=within)
            raise ScheduleRefused(outcome.refusal)


def delete(task: Task, *, at: datetime, within: float = ATTEMPT_WITHIN) -> None:
    """Hides the task everywhere at once. The row stays, without its text, as the evidence of whose runs those were."""
    hide(Task.objects.filter(pk=task.pk), at=at)
    settle(task.pk, at=at, within=within)
