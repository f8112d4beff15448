"""What Trigger.dev says of runs: asked once for many readers, and never when it is known.

A snapshot that is no longer fresh is shown while it is asked for anew behind the answer; an older one is waited for;
and when Trigger.dev does not answer, the last known is shown and called `stale`. Nothing is ever made up.

Cache entries name Trigger.dev's environment and the upstream thing, never a caller; access is checked after the cache.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Literal, NamedTuple, cast
from uuid import UUID

from django.conf import settings
from django.core.cache import cache

from accounts.models import Account
from tasks import cron, fires, snapshots, upstream
from tasks.fires import Fire
from tasks.models import Task
from tasks.run_owners import ACCOUNT_TAG, as_seen_by, related_runs, tagged_accounts
from tasks.snapshots import SHORT_LIVED, Snapshot
from tasks.trigger import errors
from tasks.trigger.types import Run

RECENT = 5
RUN_ID = re.compile(r"run_[0-9A-Za-z]{1,64}", re.ASCII)
LEFT_OUT_OF_LISTS = ("payload", "output", "error", "attempts", "schedule", "relatedRuns")
LAST_KNOWN_FOR = 24 * 3600
UNKNOWN_FOR = 5
# For so long, in seconds, another process is trusted to bring the answer that it has begun to ask for.
ASKED_BY_ANOTHER_FOR, LOOK_EVERY = 4, 0.02

logger = logging.getLogger(__name__)


class RunsStatus(StrEnum):
    FRESH = "fresh"
    STALE = "stale"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known, and whether it is what Trigger.dev says now."""

    snapshot: Snapshot | None
    status: RunsStatus

    @property
    def as_of(self) -> datetime | None:
        return self.snapshot.as_of if self.snapshot else None


UNAVAILABLE = Known(None, RunsStatus.UNAVAILABLE)


Enough = Callable[[Snapshot], bool]
Deadline = Callable[[], float]


class Source(NamedTuple):
    """Where a task's runs are found: by its schedule, and those that somebody started by its tag."""

    kind: Literal["schedule", "tag"]
    name: str


class RunNotFound(Exception):
    """Unknown, malformed or not the caller's: one answer for all of them."""


# --- The runs of tasks -----------------------------------------------------------------------------------------------


def newest(
    sources: Mapping[Source, Task], *, now: datetime, deadline: float
) -> tuple[dict[Source, Known], dict[str, Fire]]:
    """The newest runs of each source, and the last fire of each schedule, from one look into the cache.

    What has to be waited for is asked all at once, one call for each source, and for no longer than the deadline.
    """
    names = {newest_name(source): source for source in sources}
    fire_names = {fires.fire_name(source.name): source.name for source in sources if source.kind == "schedule"}
    kept: dict[str, Any] = cache.get_many([*names, *fire_names]) if names else {}
    known: dict[Source, Known] = {}
    waited_for: dict[str, Callable[[], Snapshot]] = {}
    for name, source in names.items():
        task, snapshot = sources[source], kept.get(name)
        is_enough = partial(is_fresh_for, task, now=now)
        if snapshot is not None and is_enough(snapshot):
            known[source] = Known(snapshot, RunsStatus.FRESH)
        elif snapshot is not None and snapshot.is_shown(now=now) and knows(snapshot, task):
            fetch = partial(fetch_newest, source, task, snapshot, now=now, deadline=upstream.deadline_from_now)
            upstream.ask_behind(name, partial(alone, name, fetch, is_enough))
            known[source] = Known(snapshot, RunsStatus.STALE)
        else:
            fetch = partial(fetch_newest, source, task, snapshot, now=now, deadline=lambda: deadline)
            waited_for[name] = partial(alone, name, fetch, is_enough)
    for name, answer in upstream.ask_together(waited_for, deadline=deadline).items():
        known[names[name]] = fresh_or_last(answer, kept.get(name))
    return known, {schedule_id: kept[name] for name, schedule_id in fire_names.items() if name in kept}


def is_fresh_for(task: Task, snapshot: Snapshot, *, now: datetime) -> bool:
    return snapshot.is_fresh(now=now, generation=task.generation) and knows(snapshot, task)


def knows(snapshot: Snapshot, task: Task) -> bool:
    """False for what was said before somebody started a run: that one is looked for in vain."""
    return task.run_by_hand_at is None or snapshot.as_of >= task.run_by_hand_at


def fresh_or_last(answer: Snapshot | BaseException, last: Snapshot | None) -> Known:
    if isinstance(answer, Snapshot):
        return Known(answer, RunsStatus.FRESH)
    return Known(last, RunsStatus.STALE) if last is not None else UNAVAILABLE


def fetch_newest(source: Source, task: Task, former: Snapshot | None, *, now: datetime, deadline: Deadline) -> Snapshot:
    filters = {"schedule_id": source.name} if source.kind == "schedule" else {"tag": source.name}
    page = upstream.client().list_runs(**filters, limit=RECENT, deadline=deadline())
    runs = [without(run, LEFT_OUT_OF_LISTS) for run in page.runs]
    next_fire = partial(next_fire_of, task) if source.kind == "schedule" else never
    fresh_until = snapshots.fresh_until(runs, next_fire=next_fire, now=now)
    taken = snapshots.take(runs, at=now, fresh_until=fresh_until, generation=task.generation)
    if source.kind == "schedule" and former and taken.newest_id and taken.newest_id != former.newest_id:
        fires.learn_behind(task, taken.newest_id)
    return keep(newest_name(source), taken)


def next_fire_of(task: Task, after: datetime) -> datetime | None:
    if not task.is_enabled:
        return None
    try:
        return next(iter(cron.next_times(task.schedule, task.timezone, after=after, count=1)), None)
    except (cron.CronError, KeyError, ValueError):
        return None


def never(after: datetime) -> datetime | None:
    return None


# --- The runs of an account, and one run -----------------------------------------------------------------------------


def of_account(account_id: UUID, *, limit: int, now: datetime, deadline: float) -> Known:
    """The newest runs that are tagged with the account; raises a TriggerError where nothing is known."""
    name = account_name(account_id, limit)
    fetch, is_enough = partial(fetch_account, account_id, limit), partial(Snapshot.is_fresh, now=now)
    return ask(name, cache.get(name), fetch, is_enough=is_enough, now=now, deadline=deadline)


def fetch_account(account_id: UUID, limit: int, *, now: datetime, deadline: Deadline) -> Snapshot:
    page = upstream.client().list_runs(tag=f"{ACCOUNT_TAG}{account_id}", limit=limit, deadline=deadline())
    tagged = [without(run, LEFT_OUT_OF_LISTS) for run in page.runs if account_id in tagged_accounts(run)]
    taken = snapshots.take(tagged, at=now, fresh_until=now + snapshots.UNFINISHED_FOR)
    return keep(account_name(account_id, limit), taken)


def retrieve(caller: Account, run_id: str, *, account_id: UUID | None, now: datetime, deadline: float) -> Known:
    """One run with payload and output, as the caller may see it.

    Raises RunNotFound, or a TriggerError where nothing is known of it. What is not the caller's is asked for like what
    nobody has asked for before, so that the two do not differ, whatever is kept of them and however Trigger.dev is.
    """
    name = run_name(run_id)
    if not RUN_ID.fullmatch(run_id):
        raise RunNotFound
    kept: dict[str, Any] = cache.get_many([name, unknown_name(run_id)])
    if unknown_name(run_id) in kept:
        raise RunNotFound
    seen = as_known(caller, kept.get(name), account_id=account_id)
    former: Snapshot | None = kept.get(name) if seen else None
    is_foreign = name in kept and seen is None
    is_enough: Enough = nothing_is if is_foreign else partial(Snapshot.is_fresh, now=now)
    try:
        known = ask(name, former, partial(fetch_run, run_id), is_enough=is_enough, now=now, deadline=deadline)
    except errors.NotFound:
        raise RunNotFound from None
    if seen is not None and known.snapshot is former:
        return Known(seen, known.status)
    seen = as_known(caller, known.snapshot, account_id=account_id)
    if seen is None:
        raise RunNotFound
    return Known(seen, known.status)


def nothing_is(snapshot: Snapshot) -> bool:
    return False


def as_known(caller: Account, snapshot: Snapshot | None, *, account_id: UUID | None) -> Snapshot | None:
    """What of it the caller may see; all of it, without looking any further, where all of it is tagged as its own."""
    own = str(account_id or caller.pk)
    if snapshot is None or all(own in tagged for tagged in snapshot.tags):
        return snapshot
    seen = as_seen_by(caller, snapshot.runs()[0], account_id=account_id)
    return snapshot._replace(encoded=snapshots.encoded(seen)) if seen is not None else None


def fetch_run(run_id: str, *, now: datetime, deadline: Deadline) -> Snapshot:
    try:
        run = upstream.client().retrieve_run(run_id, deadline=deadline())
    except errors.NotFound:
        cache.set(unknown_name(run_id), True, UNKNOWN_FOR)
        cache.delete(run_name(run_id))
        raise
    fresh_until = snapshots.fresh_run_until(run, now=now)
    return keep(run_name(run_id), snapshots.take([run], at=now, fresh_until=fresh_until, related=related_runs(run)))


# --- Asking once -----------------------------------------------------------------------------------------------------


def ask(
    name: str,
    kept: Snapshot | None,
    fetch: Callable[..., Snapshot],
    *,
    is_enough: Enough,
    now: datetime,
    deadline: float,
) -> Known:
    """Raises the TriggerError of a question that nothing is known of."""
    if kept is not None and kept.is_fresh(now=now):
        return Known(kept, RunsStatus.FRESH)
    if kept is not None and kept.is_shown(now=now):
        behind = partial(fetch, now=now, deadline=upstream.deadline_from_now)
        upstream.ask_behind(name, partial(alone, name, behind, is_enough))
        return Known(last_known(kept), RunsStatus.STALE)
    call = partial(alone, name, partial(fetch, now=now, deadline=lambda: deadline), is_enough)
    (answer,) = upstream.ask_together({name: call}, deadline=deadline).values()
    if isinstance(answer, Snapshot):
        return Known(answer, RunsStatus.FRESH)
    if kept is None or not isinstance(answer, errors.TriggerError) or isinstance(answer, errors.NotFound):
        raise answer
    return Known(last_known(kept), RunsStatus.STALE)


def last_known(kept: Snapshot) -> Snapshot:
    """Without addresses that have expired since."""
    if not kept.is_short_lived:
        return kept
    runs = [snapshots.encoded(without(run, SHORT_LIVED)) for run in kept.runs()]
    return kept._replace(encoded=b",".join(runs))


def alone(name: str, fetch: Callable[[], Snapshot], is_enough: Enough) -> Snapshot:
    """Fetches, unless what is enough has come since the cache was looked into.

    Within a process a question is asked once at a time; where the cache is shared, among all processes.
    """
    lock, until = f"{name}:asking", time.monotonic() + ASKED_BY_ANOTHER_FOR
    while True:
        kept: Snapshot | None = cache.get(name)
        if kept is not None and is_enough(kept):
            return kept
        if not settings.CACHE_IS_SHARED or cache.add(lock, True, ASKED_BY_ANOTHER_FOR) or time.monotonic() > until:
            break
        time.sleep(LOOK_EVERY)
    try:
        return fetch()
    finally:
        if settings.CACHE_IS_SHARED:
            cache.delete(lock)


def keep(name: str, snapshot: Snapshot) -> Snapshot:
    cache.set(name, snapshot, LAST_KNOWN_FOR)
    return snapshot


def without(run: Run, keys: Iterable[str]) -> Run:
    return cast(Run, {key: value for key, value in run.items() if key not in keys})


def newest_name(source: Source) -> str:
    return upstream.cache_name(source.kind, source.name)


def account_name(account_id: UUID, limit: int) -> str:
    return upstream.cache_name("account", f"{account_id}:{limit}")


def run_name(run_id: str) -> str:
    return upstream.cache_name("run", run_id)


def unknown_name(run_id: str) -> str:
    return upstream.cache_name("unknown-run", run_id)
