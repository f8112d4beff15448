"""Run snapshots: what Trigger.dev says of runs, how fresh that is, and whose run each is.

Cache entries name Trigger.dev's environment and the upstream thing, never a caller; access is checked after the cache.
When Trigger.dev does not answer, the last known is served and called `stale`; nothing is ever made up.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from django.db.models import Q

from accounts.access import Reach, reach
from accounts.ids import as_uuid
from accounts.models import Account
from tasks import upstream
from tasks.models import Task
from tasks.trigger import errors
from tasks.trigger.types import Run

RECENT = 5
RUN_ID = re.compile(r"run_[0-9A-Za-z]{1,64}", re.ASCII)
ACCOUNT_TAG = "account:"
LEFT_OUT_OF_LISTS = ("payload", "output", "error", "attempts", "schedule", "relatedRuns")
SHORT_LIVED = ("payloadPresignedUrl", "outputPresignedUrl")
LAST_KNOWN_FOR = 24 * 3600
UNKNOWN_FOR = 5

logger = logging.getLogger(__name__)


class RunsStatus(StrEnum):
    FRESH = "fresh"
    STALE = "stale"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Snapshot:
    """Runs, newest first, as Trigger.dev told them at `as_of`."""

    runs: list[Run]
    as_of: datetime | None
    status: RunsStatus


@dataclass(frozen=True)
class Known:
    """What the cache holds of a list of runs."""

    runs: list[Run]
    as_of: datetime

    def snapshot(self, status: RunsStatus) -> Snapshot:
        return Snapshot(self.runs, self.as_of, status)


UNAVAILABLE = Snapshot([], None, RunsStatus.UNAVAILABLE)


class RunNotFound(Exception):
    """Unknown, malformed or not the caller's: one answer for all of them."""


# --- Asking ----------------------------------------------------------------------------------------------------------


def of_schedules(schedule_ids: Iterable[str], *, now: datetime, deadline: float) -> dict[str, Snapshot]:
    """The newest runs of each schedule; one call a schedule, all at once, and none later than the deadline."""
    calls = {
        schedule_id: partial(fetch_schedule, schedule_id, now=now, deadline=deadline)
        for schedule_id in set(schedule_ids)
    }
    answers = upstream.ask_all(calls, deadline=deadline)
    snapshots = {schedule_id: known.snapshot(RunsStatus.FRESH) for schedule_id, known in answers.items()}
    missing = {schedule_name(schedule_id): schedule_id for schedule_id in calls if schedule_id not in answers}
    last_known: dict[str, Known] = cache.get_many(missing) if missing else {}
    for name, schedule_id in missing.items():
        known = last_known.get(name)
        snapshots[schedule_id] = known.snapshot(RunsStatus.STALE) if known else UNAVAILABLE
    return snapshots


def of_account(account_id: UUID, *, limit: int, now: datetime, deadline: float) -> Snapshot:
    """The newest runs that are tagged with the account; raises a TriggerError where nothing is known."""
    tag = f"{ACCOUNT_TAG}{account_id}"
    name = cache_name("account", f"{account_id}:{limit}")
    try:
        fetch = partial(upstream.client().list_runs, tag=tag, limit=limit, deadline=deadline)
        tagged = [run for run in upstream.ask(fetch, deadline=deadline).runs if account_id in tagged_accounts(run)]
        return remember(name, tagged, now=now).snapshot(RunsStatus.FRESH)
    except errors.TriggerError as error:
        known: Known | None = cache.get(name)
        if known is None:
            raise
        logger.warning("The runs of an account are the last known: %s", error)
        return known.snapshot(RunsStatus.STALE)


def retrieve(run_id: str, *, deadline: float) -> Run:
    """One run with payload and output. Raises RunNotFound, or a TriggerError where nothing is known of it."""
    if not RUN_ID.fullmatch(run_id):
        raise RunNotFound
    unknown, name = cache_name("unknown-run", run_id), cache_name("run", run_id)
    if cache.get(unknown):
        raise RunNotFound
    try:
        run = upstream.ask(partial(upstream.client().retrieve_run, run_id, deadline=deadline), deadline=deadline)
    except errors.NotFound:
        cache.set(unknown, True, UNKNOWN_FOR)
        cache.delete(name)
        raise RunNotFound from None
    except errors.TriggerError as error:
        last_known: Run | None = cache.get(name)
        if last_known is None:
            raise
        logger.warning("A run is the last known: %s", error)
        return last_known
    cache.set(name, without(run, SHORT_LIVED), LAST_KNOWN_FOR)
    return run


def fetch_schedule(schedule_id: str, *, now: datetime, deadline: float) -> Known:
    page = upstream.client().list_runs(schedule_id=schedule_id, limit=RECENT, deadline=deadline)
    return remember(schedule_name(schedule_id), page.runs, now=now)


def remember(name: str, runs: list[Run], *, now: datetime) -> Known:
    known = Known([without(run, LEFT_OUT_OF_LISTS) for run in runs], now)
    cache.set(name, known, LAST_KNOWN_FOR)
    return known


def without(run: Run, keys: Iterable[str]) -> Run:
    return cast(Run, {key: value for key, value in run.items() if key not in keys})


def schedule_name(schedule_id: str) -> str:
    return cache_name("schedule", schedule_id)


def cache_name(kind: str, thing: str) -> str:
    return f"runs:{upstream.environment()}:{kind}:{thing}"


# --- Whose run it is -------------------------------------------------------------------------------------------------


def as_seen_by(caller: Account, run: Run, *, account_id: UUID | None) -> Run:
    """The run without the related runs that are not the caller's; RunNotFound when it is itself not.

    With `account_id`, which the caller must be known to reach, only what that account owns.
    """
    related = list(related_runs(run))
    owners = {item["id"]: owners_of(item) for item in [run, *related]}
    if account_id is None:
        reached = reach(caller, set().union(*owners.values()))
    else:
        reached = Reach(everyone=False, accounts=frozenset([account_id]))
    if not reached.includes_any(owners[run["id"]]):
        raise RunNotFound
    hidden = {item["id"] for item in related if not reached.includes_any(owners[item["id"]])}
    return without_related(run, hidden)


def owners_of(run: Run) -> set[UUID]:
    """The accounts whose run it is: named by its tags, else by its schedule, else by a trusted payload; maybe none."""
    return tagged_accounts(run) or schedule_owner(run) or payload_owner(run)


def account_tags(run: Run) -> list[str]:
    return [tag.removeprefix(ACCOUNT_TAG) for tag in run.get("tags", []) if tag.startswith(ACCOUNT_TAG)]


def tagged_accounts(run: Run) -> set[UUID]:
    return {account_id for tag in account_tags(run) if (account_id := as_uuid(tag))}


def owned_through_schedule(runs: Iterable[Run], account_id: UUID) -> list[Run]:
    """Of runs that were asked for by the schedule of the account's task: without those tagged as somebody else's."""
    return [run for run in runs if not account_tags(run) or account_id in tagged_accounts(run)]


def schedule_owner(run: Run) -> set[UUID]:
    """The account of the task that the run's schedule belongs to, deleted tasks included."""
    schedule_id, task_id = schedule_of(run)
    named = Q(trigger_schedule_id=schedule_id) if schedule_id else Q()
    if task_id:
        named |= Q(pk=task_id)
    if not named:
        return set()
    owners = set(Task.objects.filter(named).values_list("account_id", flat=True))
    # Schedule and externalId that name different accounts prove nothing.
    return owners if len(owners) == 1 else set()


def schedule_of(run: Run) -> tuple[str | None, UUID | None]:
    """(schedule id, task id) of a scheduled run.

    Trigger.dev takes `schedule` off a run once its schedule is deleted (FACTS 4); the payload, which the schedule
    engine made, still names it. Only runs of our own task have a payload that nobody else can write.
    """
    schedule: Any = run.get("schedule")
    if schedule is None and run["taskIdentifier"] == settings.TRIGGER_TASK_IDENTIFIER:
        payload: Any = run.get("payload")
        schedule = {"id": payload.get("scheduleId"), **payload} if isinstance(payload, dict) else None
    if not isinstance(schedule, dict):
        return None, None
    schedule_id, external_id = schedule.get("id"), schedule.get("externalId")
    return (schedule_id if isinstance(schedule_id, str) else None), as_uuid(external_id)


def payload_owner(run: Run) -> set[UUID]:
    payload = run.get("payload")
    if run["taskIdentifier"] not in settings.TRIGGER_TASKS_NAMING_THEIR_ACCOUNT or not isinstance(payload, dict):
        return set()
    account_id = as_uuid(payload.get("accountId"))
    return {account_id} if account_id else set()


def related_runs(run: Run) -> Iterator[Run]:
    """Every run in `relatedRuns`, whatever its role is called."""
    for value in (run.get("relatedRuns") or {}).values():
        yield from value if isinstance(value, list) else [value] if value else []


def without_related(run: Run, hidden: set[str]) -> Run:
    if not hidden:
        return run
    kept: dict[str, Any] = {}
    for role, value in (run.get("relatedRuns") or {}).items():
        if isinstance(value, list):
            kept[role] = [item for item in value if item["id"] not in hidden]
        elif not value or value["id"] not in hidden:
            kept[role] = value
    return cast(Run, {**run, "relatedRuns": kept})


# --- What the newest fire said ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fire:
    """What Trigger.dev wrote into the payload of a scheduled run (FACTS 5)."""

    run_id: str
    timestamp: datetime
    timezone: str
    upcoming: tuple[datetime, ...]


def last_fires(schedule_ids: Iterable[str]) -> dict[str, Fire]:
    """The newest fire of each schedule whose payload is at hand; asks nobody."""
    names = {fire_name(schedule_id): schedule_id for schedule_id in schedule_ids}
    known: dict[str, Fire] = cache.get_many(names)
    return {names[name]: fire for name, fire in known.items()}


def learn_fire(schedule_id: str, run_id: str, *, deadline: float) -> Fire | None:
    """Fetches the payload of a scheduled run, to be known from then on; None where it is not one of a schedule."""
    fire = fire_of(upstream.client().retrieve_run(run_id, deadline=deadline))
    if fire is not None:
        cache.set(fire_name(schedule_id), fire, LAST_KNOWN_FOR)
    return fire


def fire_of(run: Run) -> Fire | None:
    payload: Any = run.get("payload")
    try:
        upcoming = tuple(datetime.fromisoformat(moment) for moment in payload["upcoming"])
        return Fire(run["id"], datetime.fromisoformat(payload["timestamp"]), str(payload["timezone"]), upcoming)
    except (TypeError, KeyError, ValueError):
        return None


def fire_name(schedule_id: str) -> str:
    return cache_name("fire", schedule_id)
