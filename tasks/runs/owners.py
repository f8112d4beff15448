"""Who owns a run, and which parts of it a caller may see. Every run that leaves the service is checked here.

The `account:` tags of a run name its owners; else its schedule does; else, for the tasks in
TRIGGER_PAYLOAD_OWNER_TASKS, its payload does.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.db.models import Q

from accounts.access import Reach, reach
from accounts.models import Account
from core.text import parse_uuid
from tasks.models import Task
from tasks.trigger.types import Run

ACCOUNT_TAG = "account:"
TASK_TAG = "task:"


def visible(caller: Account, owners: Mapping[str, Collection[UUID]], *, account_id: UUID | None) -> set[str]:
    """Of these runs, given with their owners, the ids of those that the caller may see.

    With `account_id`, which must be in the caller's reach, only what that account owns.
    """
    own = account_id or caller.pk
    if account_id is None and not all(own in accounts for accounts in owners.values()):
        reached = reach(caller, set().union(*owners.values()))
    else:
        reached = Reach(everyone=False, accounts=frozenset([own]))
    return {run_id for run_id, accounts in owners.items() if reached.includes_any(accounts)}


def owners_of(run: Run) -> set[UUID]:
    """The accounts that own the run, by tags, else by schedule, else by payload. May be empty.

    A tag that names no account gives the run to nobody, as in lists.
    """
    if account_tags(run):
        return tagged_accounts(run)
    return schedule_owner(run) or payload_owner(run)


def account_tags(run: Run) -> list[str]:
    """Listed runs are not checked: a tag that is not text names nobody."""
    tags = [tag for tag in run.get("tags") or [] if isinstance(tag, str)]
    return [tag.removeprefix(ACCOUNT_TAG) for tag in tags if tag.startswith(ACCOUNT_TAG)]


def tagged_accounts(run: Run) -> set[UUID]:
    return {account_id for tag in account_tags(run) if (account_id := parse_uuid(tag))}


def schedule_owner(run: Run) -> set[UUID]:
    """The account of the task that the run's schedule belongs to, deleted tasks included."""
    schedule_id, task_id = schedule_of(run)
    named = Q(trigger_schedule_id=schedule_id) if schedule_id else Q()
    if task_id:
        named |= Q(pk=task_id)
    if not named:
        return set()
    owners = set(Task.objects.filter(named).values_list("account_id", flat=True))
    # A schedule and an externalId of different accounts prove nothing.
    return owners if len(owners) == 1 else set()


def schedule_of(run: Run) -> tuple[str | None, UUID | None]:
    """(schedule id, task id) of a scheduled run.

    Trigger.dev removes `schedule` from a run when the schedule is deleted. The payload still names it: the schedule
    engine wrote it, and for our own task nobody else can write one.
    """
    schedule: Any = run.get("schedule")
    if schedule is None and run["taskIdentifier"] == settings.TRIGGER_TASK_IDENTIFIER:
        payload: Any = run.get("payload")
        schedule = {"id": payload.get("scheduleId"), **payload} if isinstance(payload, dict) else None
    if not isinstance(schedule, dict):
        return None, None
    schedule_id, external_id = schedule.get("id"), schedule.get("externalId")
    is_one = isinstance(schedule_id, str) and schedule_id.isascii() and schedule_id.isprintable()
    return (schedule_id if is_one else None), parse_uuid(external_id)


def payload_owner(run: Run) -> set[UUID]:
    payload = run.get("payload")
    if run["taskIdentifier"] not in settings.TRIGGER_PAYLOAD_OWNER_TASKS or not isinstance(payload, dict):
        return set()
    account_id = parse_uuid(payload.get("accountId"))
    return {account_id} if account_id else set()


def related_runs(run: Run) -> Iterator[Run]:
    """Every run in `relatedRuns`, in any role."""
    for value in (run.get("relatedRuns") or {}).values():
        yield from value if isinstance(value, list) else [value] if value else []


def without_related(run: Run, hidden: Collection[str] = ()) -> Run:
    """Without these related runs, and without those of the others: no access check reads them."""

    def cut(related: Run) -> Any:
        return {key: value for key, value in related.items() if key != "relatedRuns"}

    related, kept = run.get("relatedRuns"), dict[str, Any]()
    if not related:
        return run
    for role, value in related.items():
        if isinstance(value, list):
            kept[role] = [cut(item) for item in value if item["id"] not in hidden]
        elif not value or value["id"] not in hidden:
            kept[role] = value and cut(value)
    return cast(Run, {**run, "relatedRuns": kept})
