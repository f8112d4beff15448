"""Run snapshots: what Trigger.dev says of runs, and how fresh that is.

Cache entries name Trigger.dev's environment and the upstream thing, never a caller; access is checked after the cache.
When Trigger.dev does not answer, the last known is served and called `stale`; nothing is ever made up.
"""

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, Literal, NamedTuple, cast
from uuid import UUID

from django.core.cache import cache

from accounts.models import Account
from tasks import upstream
from tasks.moments import from_text
from tasks.run_owners import ACCOUNT_TAG, as_seen_by, tagged_accounts
from tasks.trigger import errors
from tasks.trigger.types import Run

RECENT = 5
RUN_ID = re.compile(r"run_[0-9A-Za-z]{1,64}", re.ASCII)
LEFT_OUT_OF_LISTS = ("payload", "output", "error", "attempts", "schedule", "relatedRuns")
SHORT_LIVED = ("payloadPresignedUrl", "outputPresignedUrl")
LAST_KNOWN_FOR = 24 * 3600
UNKNOWN_FOR = 5
LEARN_FIRE_AGAIN_AFTER = 60

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
class Kept:
    """What the cache holds: the runs as JSON, since what JSON can nest is too deep for pickle."""

    encoded: bytes
    as_of: datetime

    def snapshot(self) -> Snapshot:
        return Snapshot(json.loads(self.encoded), self.as_of, RunsStatus.STALE)


class Source(NamedTuple):
    """Where a task's runs are found: by its schedule, and those that somebody started by its tag."""

    kind: Literal["schedule", "tag"]
    name: str


UNAVAILABLE = Snapshot([], None, RunsStatus.UNAVAILABLE)


class RunNotFound(Exception):
    """Unknown, malformed or not the caller's: one answer for all of them."""


# --- Asking ----------------------------------------------------------------------------------------------------------


def newest(sources: Iterable[Source], *, now: datetime, deadline: float) -> dict[Source, Snapshot]:
    """The newest runs of each source; one call for each, all at once, and none later than the deadline."""
    calls = {source: partial(fetch_newest, source, now=now, deadline=deadline) for source in set(sources)}
    snapshots = upstream.ask_all(calls, deadline=deadline)
    missing = {newest_name(source): source for source in calls if source not in snapshots}
    kept: dict[str, Kept] = cache.get_many(missing) if missing else {}
    for name, source in missing.items():
        snapshots[source] = kept[name].snapshot() if name in kept else UNAVAILABLE
    return snapshots


def of_account(account_id: UUID, *, limit: int, now: datetime, deadline: float) -> Snapshot:
    """The newest runs that are tagged with the account; raises a TriggerError where nothing is known."""
    fetch = partial(fetch_account, account_id, limit=limit, now=now, deadline=deadline)
    try:
        return upstream.ask(fetch, deadline=deadline)
    except errors.TriggerError as error:
        return last_known(account_name(account_id, limit), instead_of=error)


def retrieve(caller: Account, run_id: str, *, account_id: UUID | None, now: datetime, deadline: float) -> Snapshot:
    """One run with payload and output, as the caller may see it.

    Raises RunNotFound, or a TriggerError where nothing is known of it, or nothing that the caller may see: while
    Trigger.dev is away, a foreign run must not differ from one that nobody has asked for before.
    """
    if not RUN_ID.fullmatch(run_id) or cache.get(unknown_name(run_id)):
        raise RunNotFound
    try:
        snapshot = upstream.ask(partial(fetch_run, run_id, now=now, deadline=deadline), deadline=deadline)
        otherwise: Exception = RunNotFound()
    except errors.NotFound:
        raise RunNotFound from None
    except errors.TriggerError as error:
        snapshot, otherwise = last_known(run_name(run_id), instead_of=error), error
    seen = as_seen_by(caller, snapshot.runs[0], account_id=account_id)
    if seen is None:
        raise otherwise
    return replace(snapshot, runs=[seen])


def last_known(name: str, *, instead_of: errors.TriggerError) -> Snapshot:
    kept: Kept | None = cache.get(name)
    if kept is None:
        raise instead_of
    logger.warning("The last known runs are shown: %s", instead_of)
    return kept.snapshot()


def fetch_newest(source: Source, *, now: datetime, deadline: float) -> Snapshot:
    filters = {"schedule_id": source.name} if source.kind == "schedule" else {"tag": source.name}
    page = upstream.client().list_runs(**filters, limit=RECENT, deadline=deadline)
    return keep(newest_name(source), [without(run, LEFT_OUT_OF_LISTS) for run in page.runs], now=now)


def fetch_account(account_id: UUID, *, limit: int, now: datetime, deadline: float) -> Snapshot:
    page = upstream.client().list_runs(tag=f"{ACCOUNT_TAG}{account_id}", limit=limit, deadline=deadline)
    tagged = [without(run, LEFT_OUT_OF_LISTS) for run in page.runs if account_id in tagged_accounts(run)]
    return keep(account_name(account_id, limit), tagged, now=now)


def fetch_run(run_id: str, *, now: datetime, deadline: float) -> Snapshot:
    try:
        run = upstream.client().retrieve_run(run_id, deadline=deadline)
    except errors.NotFound:
        cache.set(unknown_name(run_id), True, UNKNOWN_FOR)
        cache.delete(run_name(run_id))
        raise
    keep(run_name(run_id), [without(run, SHORT_LIVED)], now=now)
    return Snapshot([run], now, RunsStatus.FRESH)


def keep(name: str, runs: list[Run], *, now: datetime) -> Snapshot:
    cache.set(name, Kept(json.dumps(runs).encode(), now), LAST_KNOWN_FOR)
    return Snapshot(runs, now, RunsStatus.FRESH)


def without(run: Run, keys: Iterable[str]) -> Run:
    return cast(Run, {key: value for key, value in run.items() if key not in keys})


def newest_name(source: Source) -> str:
    return cache_name(source.kind, source.name)


def account_name(account_id: UUID, limit: int) -> str:
    return cache_name("account", f"{account_id}:{limit}")


def run_name(run_id: str) -> str:
    return cache_name("run", run_id)


def unknown_name(run_id: str) -> str:
    return cache_name("unknown-run", run_id)


def cache_name(kind: str, thing: str) -> str:
    return f"runs:{upstream.environment()}:{kind}:{thing}"


# --- What the newest fire said ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fire:
    """What Trigger.dev wrote into the payload of a scheduled run; no times where it was none of a schedule."""

    run_id: str
    timestamp: datetime
    timezone: str
    upcoming: tuple[datetime, ...]


def last_fires(schedule_ids: Iterable[str]) -> dict[str, Fire]:
    """The newest fire of each schedule whose payload is at hand; asks nobody."""
    names = {fire_name(schedule_id): schedule_id for schedule_id in schedule_ids}
    known: dict[str, Fire] = cache.get_many(names)
    return {names[name]: fire for name, fire in known.items()}


def may_learn_fire(run_id: str) -> bool:
    """True for one asker a minute, so that a payload that is slow to come is not asked for by every request."""
    return cache.add(cache_name("learning-fire", run_id), True, LEARN_FIRE_AGAIN_AFTER)


def learn_fire(schedule_id: str, run_id: str, *, deadline: float) -> Fire:
    """Fetches the payload of a scheduled run, to be known from then on."""
    fire = fire_of(upstream.client().retrieve_run(run_id, deadline=deadline))
    cache.set(fire_name(schedule_id), fire, LAST_KNOWN_FOR)
    return fire


def count_disagreement() -> int:
    """How often Trigger.dev's times were not the computed ones, this one included."""
    name = cache_name("count", "cron-disagreements")
    cache.add(name, 0, None)
    return cache.incr(name)


def fire_of(run: Run) -> Fire:
    payload: Any = run.get("payload")
    try:
        upcoming = tuple(from_text(text) for text in payload["upcoming"])
        return Fire(run["id"], from_text(payload["timestamp"]), str(payload["timezone"]), upcoming)
    except (TypeError, KeyError, ValueError):
        return Fire(run["id"], datetime.min.replace(tzinfo=UTC), "", ())


def fire_name(schedule_id: str) -> str:
    return cache_name("fire", schedule_id)
