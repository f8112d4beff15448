"""What a task wants Trigger.dev to hold, and the steps that make a schedule so: planned purely, then carried out."""

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


@dataclass(frozen=True)
class Wanted:
    """What a row wants Trigger.dev to hold. `exists` is false for a deleted task."""

    key: str
    task: str
    cron: str
    timezone: str
    external_id: str
    active: bool
    exists: bool


def wanted_by(task: Task) -> Wanted:
    return Wanted(
        key=key_of(task.pk),
        task=settings.TRIGGER_TASK_IDENTIFIER,
        cron=task.schedule,
        timezone=zones.sent(task.timezone),
        external_id=str(task.pk),
        active=task.is_enabled,
        exists=task.deleted_at is None,
    )


def key_of(task_id: UUID) -> str:
    return f"{settings.TRIGGER_NAMESPACE}{task_id}"


def task_named_by(schedule: Schedule) -> UUID | None:
    """The task whose schedule this is by its own account; None for a schedule that is not ours.

    Ours start our task, and have an externalId and a key that name the same task id, or that externalId and no key.
    """
    task_id = parse_uuid(schedule.external_id)
    if task_id is None or schedule.is_declarative or schedule.task != settings.TRIGGER_TASK_IDENTIFIER:
        return None
    return task_id if schedule.key in (None, key_of(task_id)) else None


# --- Plan and carry out ----------------------------------------------------------------------------------------------


def plan(wanted: Wanted, schedule: Schedule | None) -> Step:
    """What makes this schedule, or none, what is wanted. Pure."""
    if not wanted.exists:
        return Step.NOTHING if schedule is None else Step.DELETE
    if schedule is None:
        return Step.CREATE if wanted.active else Step.NOTHING
    if not is_equal(wanted, schedule):
        if schedule.active != wanted.active:
            return Step.RESUME if wanted.active else Step.PAUSE
        return Step.ADOPT if schedule.key is None else Step.REPLACE
    if schedule.active == wanted.active:
        return Step.NOTHING
    return Step.ACTIVATE if wanted.active else Step.DEACTIVATE


def is_equal(wanted: Wanted, schedule: Schedule) -> bool:
    mine = (wanted.cron, wanted.timezone, wanted.external_id)
    return mine == (schedule.cron, schedule.timezone, schedule.external_id)


def carry_out(
    step: Step, wanted: Wanted, schedule: Schedule | None, client: TriggerClient, *, deadline: Callable[[], float]
) -> Schedule | None:
    """The schedule as it then is; None where there is none. `deadline` is asked before each call, and may refuse it."""

    def write() -> Schedule:
        content = {"task": wanted.task, "cron": wanted.cron, "timezone": wanted.timezone}
        content["external_id"] = wanted.external_id
        if schedule is not None and schedule.key is None:
            return client.replace_schedule(schedule.id, **content, deadline=deadline())
        return client.put_schedule(key=(schedule and schedule.key) or wanted.key, **content, deadline=deadline())

    # Creating and replacing never change `active`: a pause stops it first, and a resume starts it last.
    actions: dict[Step, tuple[str, ...]] = {
        Step.CREATE: ("write",),
        Step.REPLACE: ("write",),
        Step.ADOPT: ("write",),
        Step.ACTIVATE: ("activate",),
        Step.RESUME: ("write", "activate"),
        Step.DEACTIVATE: ("deactivate",),
        Step.PAUSE: ("deactivate", "write"),
        Step.DELETE: ("delete",),
    }
    after = schedule
    for action in actions.get(step, ()):
        if action == "write":
            after = write()
        elif action == "delete":
            delete(schedule.id if schedule else wanted.key, client, deadline=deadline)
            after = None
        elif after is not None:
            set_active = client.activate_schedule if action == "activate" else client.deactivate_schedule
            after = set_active(after.id, deadline=deadline())
    if after is not None and wanted.exists and after.active != wanted.active:
        # It vanished or changed between our look and our write.
        set_active = client.activate_schedule if wanted.active else client.deactivate_schedule
        after = set_active(after.id, deadline=deadline())
    return after


def delete(name: str, client: TriggerClient, *, deadline: Callable[[], float]) -> None:
    try:
        client.delete_schedule(name, deadline=deadline())
    except errors.NotFound:
        return


def look(
    wanted: Wanted, known_id: str | None, client: TriggerClient, *, deadline: Callable[[], float]
) -> Schedule | None:
    """By key, else by the id that the row knows: a schedule that was adopted has another key, or none."""
    for name in (wanted.key, known_id):
        with suppress(errors.NotFound):
            schedule = client.retrieve_schedule(name, deadline=deadline()) if name else None
            if schedule is not None and may_be(wanted, schedule):
                return schedule
    return None


def may_be(wanted: Wanted, schedule: Schedule) -> bool:
    """Whether it can be this task's schedule: it has its key, or was adopted. One that is declared in code never is."""
    is_adoptable = schedule.task == wanted.task and schedule.external_id in (None, "", wanted.external_id)
    return not schedule.is_declarative and (schedule.key == wanted.key or is_adoptable)
