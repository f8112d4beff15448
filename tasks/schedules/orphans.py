"""Which listed schedules of ours belong to no task, or are duplicates. Decides only; `reconciliation` deletes them."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings

from core.text import parse_uuid
from tasks.schedules.planning import task_id_of
from tasks.trigger.types import Schedule

# More than this many, or than this part of ours, are only deleted with --yes.
MAX_WITHOUT_YES, MAX_PART_WITHOUT_YES = 10, 0.1


@dataclass(frozen=True)
class Unmatched:
    """`orphans` have no living task; the task of a `duplicate` has another schedule. `ours`: how many are ours in all.

    `foreign` ones start a living task of ours with a key that is not ours.
    """

    orphans: list[Schedule]
    duplicates: list[Schedule]
    foreign: list[Schedule]
    ours: int


def find_unmatched(
    schedules: Iterable[Schedule], living: dict[UUID, str | None], *, only_tasks: set[UUID] | None
) -> Unmatched:
    """`living`: the schedule ids of living tasks. `only_tasks`: leave out schedules of all other tasks."""
    orphans, duplicates, foreign, ours = [], [], [], 0
    for schedule in schedules:
        task_id = task_id_of(schedule)
        if task_id is None and is_foreign(schedule, living):
            foreign.append(schedule)
        if task_id is None or (only_tasks is not None and task_id not in only_tasks):
            continue
        ours += 1
        if task_id not in living:
            orphans.append(schedule)
        elif schedule.key is None and living[task_id] != schedule.id:
            duplicates.append(schedule)
    return Unmatched(orphans, duplicates, foreign, ours)


def is_foreign(schedule: Schedule, living: dict[UUID, str | None]) -> bool:
    """Whether it starts a living task without being the schedule that the task has adopted."""
    task_id = parse_uuid(schedule.external_id)
    is_our_task = not schedule.is_declarative and schedule.task == settings.TRIGGER_TASK_IDENTIFIER
    return is_our_task and task_id in living and living[task_id] != schedule.id


def needs_confirmation(count: int, of: int) -> bool:
    return count > MAX_WITHOUT_YES or count > of * MAX_PART_WITHOUT_YES


def shortened(schedules: list[Schedule]) -> str:
    shown = [schedule.id for schedule in schedules[:MAX_WITHOUT_YES]]
    return ", ".join([*shown, "..."] if len(schedules) > len(shown) else shown)
