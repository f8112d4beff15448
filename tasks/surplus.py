"""Schedules of ours that no task has, and second ones of a task: found in the whole list, and deleted one by one.

What is deleted here cannot be had back, so nothing is believed that is not fresh: each is looked at again, at
Trigger.dev and in the database, right before it goes.
"""

from dataclasses import dataclass
from uuid import UUID

from tasks.models import Task
from tasks.reconciliation import Change, Reconciliation, Result
from tasks.schedule_list import ScheduleList
from tasks.schedules import Step, task_named_by
from tasks.trigger import errors
from tasks.trigger.types import Schedule

NO_TASK, SECOND = "no task has it", "the task has another one"
# More than this many, or than this part of ours, are not deleted without a second word.
MANY, LARGE_PART = 10, 0.1


@dataclass(frozen=True)
class Surplus:
    """`orphans` have no living task; `second` ones have a task that has another schedule. `ours`: how many in all."""

    orphans: list[Schedule]
    second: list[Schedule]
    ours: int

    @property
    def is_much(self) -> bool:
        return is_much(len(self.orphans) + len(self.second), self.ours)


def is_much(count: int, of: int) -> bool:
    return count > MANY or count > of * LARGE_PART


def find(listed: ScheduleList, living: dict[UUID, str | None], *, among: set[UUID] | None) -> Surplus:
    """`living`: the schedule ids of the living tasks; `among`: only schedules of these tasks, deleted ones included."""
    orphans, second, ours = [], [], 0
    for schedule in listed.schedules:
        task_id = task_named_by(schedule)
        if task_id is None or (among is not None and task_id not in among):
            continue
        ours += 1
        if task_id not in living:
            orphans.append(schedule)
        elif schedule.key is None and living[task_id] != schedule.id:
            second.append(schedule)
    return Surplus(orphans, second, ours)


def delete(schedules: list[Schedule], work: Reconciliation) -> None:
    for done, schedule in enumerate(schedules, 1):
        change = delete_one(schedule, work)
        if change is not None:
            work.note(change)
        work.watcher.on_progress("Deleting", done, len(schedules))


def delete_one(schedule: Schedule, work: Reconciliation) -> Change | None:
    """None when there is nothing to delete any more."""
    task_id, client = task_named_by(schedule), work.pace.client
    if task_id is None:
        return None
    try:
        again = work.pace.ask(lambda deadline: client.retrieve_schedule(schedule.id, deadline=deadline))
        reason = why_surplus(again, task_id)
        if task_named_by(again) != task_id or not reason:
            return None
        if work.is_dry:
            return Change(Result.PLANNED, Step.DELETE, task_id, schedule.id, reason)
        work.pace.ask(lambda deadline: client.delete_schedule(schedule.id, deadline=deadline))
        return Change(Result.DONE, Step.DELETE, task_id, schedule.id, reason)
    except errors.NotFound:
        return None
    except errors.TriggerError as error:
        return Change(Result.FAILED, Step.DELETE, task_id, schedule.id, str(error))


def why_surplus(schedule: Schedule, task_id: UUID) -> str:
    """From the row as it is now; empty when the schedule is its task's, or may become so."""
    row = Task.objects.living().filter(pk=task_id).first()
    if row is None:
        return NO_TASK
    has_another = row.trigger_schedule_id not in (None, schedule.id)
    return SECOND if schedule.key is None and has_another else ""
