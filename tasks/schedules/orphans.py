"""Schedules of ours that no task has, and second ones of a task: found in the whole list, and deleted one by one.

What is deleted here cannot be had back, so nothing is believed that is not fresh: each is looked at again, at
Trigger.dev and in the database, right before it goes.
"""

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings

from core.text import parse_uuid
from tasks.models import SyncStatus, Task
from tasks.schedules.planning import Step, look, plan, task_named_by, wanted_by
from tasks.schedules.reconciliation import Change, Reconciliation, Result, deadline
from tasks.schedules.schedule_list import ScheduleList
from tasks.trigger import errors
from tasks.trigger.types import Schedule

NO_TASK, SECOND = "no task has it", "the task has another one"
# More than this many, or than this part of ours, are not deleted without a second word.
MANY, LARGE_PART = 10, 0.1


@dataclass(frozen=True)
class Surplus:
    """`orphans` have no living task; `second` ones have a task that has another schedule. `ours`: how many in all.

    `foreign` ones start a living task of ours under a key that is not ours.
    """

    orphans: list[Schedule]
    second: list[Schedule]
    foreign: list[Schedule]
    ours: int


def is_much(count: int, of: int) -> bool:
    return count > MANY or count > of * LARGE_PART


def find(listed: ScheduleList, living: dict[UUID, str | None], *, among: set[UUID] | None) -> Surplus:
    """`living`: the schedule ids of the living tasks; `among`: only schedules of these tasks, deleted ones included."""
    orphans, second, foreign, ours = [], [], [], 0
    for schedule in listed.schedules:
        task_id = task_named_by(schedule)
        if task_id is None and is_foreign(schedule, living):
            foreign.append(schedule)
        if task_id is None or (among is not None and task_id not in among):
            continue
        ours += 1
        if task_id not in living:
            orphans.append(schedule)
        elif schedule.key is None and living[task_id] != schedule.id:
            second.append(schedule)
    return Surplus(orphans, second, foreign, ours)


def is_foreign(schedule: Schedule, living: dict[UUID, str | None]) -> bool:
    """Not the one that its task has adopted."""
    task_id = parse_uuid(schedule.external_id)
    is_our_task = not schedule.is_declarative and schedule.task == settings.TRIGGER_TASK_IDENTIFIER
    return is_our_task and task_id in living and living[task_id] != schedule.id


def delete(schedules: list[Schedule], work: Reconciliation) -> None:
    for done, schedule in enumerate(schedules, 1):
        change = delete_one(schedule, work)
        if change is not None:
            work.note(change)
        work.watcher.on_progress("Looking again" if work.is_dry else "Deleting", done, len(schedules))


def delete_one(schedule: Schedule, work: Reconciliation) -> Change | None:
    """None when there is nothing to delete any more."""
    task_id, client = task_named_by(schedule), work.pace.client
    if task_id is None:
        return None
    try:
        again = work.pace.ask(lambda deadline: client.retrieve_schedule(schedule.id, deadline=deadline))
        reason = why_surplus(again, task_id, work) if task_named_by(again) == task_id else ""
        if not reason:
            return None
        if work.is_dry:
            return Change(Result.PLANNED, Step.DELETE, task_id, schedule.id, reason)
        work.pace.ask(lambda deadline: client.delete_schedule(schedule.id, deadline=deadline))
        return Change(Result.DONE, Step.DELETE, task_id, schedule.id, reason)
    except errors.NotFound:
        return None
    except errors.TriggerError as error:
        return Change(Result.FAILED, Step.DELETE, task_id, schedule.id, str(error))


def why_surplus(schedule: Schedule, task_id: UUID, work: Reconciliation) -> str:
    """Empty when the schedule is its task's, or may become so: the task's other one must be there, and right."""
    row = Task.objects.living().filter(pk=task_id).first()
    if row is None:
        return NO_TASK
    if schedule.key is not None or row.sync_status is not SyncStatus.IN_SYNC:
        return ""
    wanted = wanted_by(row)
    other = work.pace.ask(lambda _: look(wanted, row.trigger_schedule_id, work.pace.client, deadline=deadline))
    is_there = other is not None and other.id != schedule.id and plan(wanted, other) is Step.NOTHING
    return SECOND if is_there else ""
