"""Which schedule a task should have at Trigger.dev, and the step that makes it so.

`plan` decides and is pure; `carry_out` does the calls.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from django.conf import settings

from core.text import parse_uuid
from tasks.cron import zones
from tasks.models import Task
from tasks.trigger import errors
from tasks.trigger.client import TriggerClient
from tasks.trigger.types import Schedule


class Step(StrEnum):
    NOTHING = "nothing"
    CREATE = "create"
    REPLACE = "replace"
    ADOPT = "adopt"
    ACTIVATE = "activate"
    RESUME = "resume"
    DEACTIVATE = "deactivate"
    PAUSE = "pause"
    DELETE = "delete"


# The steps that write the cron expression, the time zone or the external id.
WRITES = frozenset((Step.CREATE, Step.REPLACE, Step.ADOPT, Step.RESUME, Step.PAUSE))


@dataclass(frozen=True)
class DesiredSchedule:
    """What a task's row says that Trigger.dev should hold. `exists` is false for a deleted task."""

    key: str
    task: str
    cron: str
    timezone: str
    external_id: str
    active: bool
    exists: bool


def desired_schedule(task: Task) -> DesiredSchedule:
    return DesiredSchedule(
        key=deduplication_key(task.pk),
        task=settings.TRIGGER_TASK_IDENTIFIER,
        cron=task.schedule,
        timezone=zones.trigger_name(task.timezone),
        external_id=str(task.pk),
        active=task.is_enabled,
        exists=task.deleted_at is None,
    )


def deduplication_key(task_id: UUID) -> str:
    return f"{settings.TRIGGER_NAMESPACE}{task_id}"


def task_id_of(schedule: Schedule) -> UUID | None:
    """The task that the schedule names as its own; None for a schedule that is not ours.

    Ours start our task, and have an externalId and a key that name the same task id, or are adoptable.
    """
    task_id = parse_uuid(schedule.external_id)
    if task_id is None or schedule.is_declarative or schedule.task != settings.TRIGGER_TASK_IDENTIFIER:
        return None
    return task_id if schedule.key == deduplication_key(task_id) or is_adoptable(schedule) else None


def can_belong(desired: DesiredSchedule, schedule: Schedule) -> bool:
    """Whether it can be this task's schedule: it has the task's key, or was adopted. A declarative one never is."""
    is_named = schedule.task == desired.task and schedule.external_id in (None, "", desired.external_id)
    is_ours = schedule.key == desired.key or (is_named and is_adoptable(schedule))
    return is_ours and not schedule.is_declarative


def is_adoptable(schedule: Schedule) -> bool:
    """Without a key, and where no namespace is set. One with another key belongs to another copy of the database."""
    return schedule.key is None and not settings.TRIGGER_NAMESPACE


def plan(desired: DesiredSchedule, schedule: Schedule | None) -> Step:
    """The step from this schedule, or from none, to the desired one. Pure."""
    if not desired.exists:
        return Step.NOTHING if schedule is None else Step.DELETE
    if schedule is None:
        return Step.CREATE if desired.active else Step.NOTHING
    if not has_desired_content(desired, schedule):
        if schedule.active != desired.active:
            return Step.RESUME if desired.active else Step.PAUSE
        return Step.ADOPT if schedule.key is None else Step.REPLACE
    if schedule.active == desired.active:
        return Step.NOTHING
    return Step.ACTIVATE if desired.active else Step.DEACTIVATE


def has_desired_content(desired: DesiredSchedule, schedule: Schedule) -> bool:
    content = (desired.cron, desired.timezone, desired.external_id)
    return content == (schedule.cron, schedule.timezone, schedule.external_id)


# --- Calls to Trigger.dev. `next_deadline` is called before each one, and may raise instead --------------------------


def delete_by_key(desired: DesiredSchedule, client: TriggerClient, *, next_deadline: Callable[[], float]) -> bool:
    """Whether there was a schedule with this key."""
    try:
        client.delete_schedule(desired.key, deadline=next_deadline())
    except errors.NotFound:
        return False
    return True


def find_schedule(
    desired: DesiredSchedule,
    known_id: str | None,
    client: TriggerClient,
    *,
    by_key: bool = True,
    next_deadline: Callable[[], float],
) -> Schedule | None:
    """By key, else by the id in the row: an adopted schedule has another key, or none."""
    for name in (desired.key if by_key else None, known_id):
        with suppress(errors.NotFound):
            schedule = client.retrieve_schedule(name, deadline=next_deadline()) if name else None
            if schedule is not None and can_belong(desired, schedule):
                return schedule
    return None


def carry_out(
    step: Step,
    desired: DesiredSchedule,
    schedule: Schedule | None,
    client: TriggerClient,
    *,
    next_deadline: Callable[[], float],
) -> Schedule | None:
    """The schedule after the step; None where there is none.

    A write never changes `active`. So a pause deactivates before it writes, and a resume activates after it.
    """
    if step is Step.DELETE:
        with suppress(errors.NotFound):
            client.delete_schedule(schedule.id if schedule else desired.key, deadline=next_deadline())
        return None
    after = schedule
    if step is Step.PAUSE and after is not None:
        after = client.deactivate_schedule(after.id, deadline=next_deadline())
    if step in WRITES:
        after = write(desired, schedule, client, deadline=next_deadline())
    # Also where somebody else changed it between our read and our write.
    if after is not None and after.active != desired.active:
        set_active = client.activate_schedule if desired.active else client.deactivate_schedule
        after = set_active(after.id, deadline=next_deadline())
    return after


def write(desired: DesiredSchedule, schedule: Schedule | None, client: TriggerClient, *, deadline: float) -> Schedule:
    content = {"task": desired.task, "cron": desired.cron, "timezone": desired.timezone}
    content["external_id"] = desired.external_id
    if schedule is not None and schedule.key is None:
        return client.replace_schedule(schedule.id, **content, deadline=deadline)
    key = schedule.key if schedule is not None and schedule.key else desired.key
    return client.put_schedule(key=key, **content, deadline=deadline)
