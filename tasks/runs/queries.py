"""What Trigger.dev says of runs: asked once for many readers, and never when it is known.

A snapshot that is no longer fresh is shown while it is asked for anew behind the answer; an older one is waited for.

Cache entries name Trigger.dev's environment and the upstream thing, never a caller; access is checked after the cache.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.core.cache import cache

from accounts.models import Account
from tasks.gateway import upstream
from tasks.gateway.lookups import looking_up
from tasks.runs import snapshots
from tasks.runs.known import (
    LAST_KNOWN_FOR,
    Deadline,
    Known,
    Question,
    RunsStatus,
    ask,
    keep,
    without,
)
from tasks.runs.owners import ACCOUNT_TAG, as_seen_by, related_runs, tagged_accounts, without_nested
from tasks.runs.snapshots import Snapshot
from tasks.trigger import errors

RUN_ID = re.compile(r"run_[0-9A-Za-z]{1,64}", re.ASCII)
LEFT_OUT_OF_LISTS = ("payload", "output", "error", "attempts", "schedule", "relatedRuns")
UNKNOWN_FOR = 5

logger = logging.getLogger(__name__)


class RunNotFound(Exception):
    """Unknown, malformed or not the caller's: one answer for all of them."""


# --- The runs of an account, and one run -----------------------------------------------------------------------------


def of_account(account_id: UUID, *, limit: int, now: datetime, deadline: float, only_fresh: bool = False) -> Known:
    """The newest runs that are tagged with the account; raises a TriggerError where nothing is known."""
    name, is_enough = account_name(account_id, limit), partial(Snapshot.is_fresh, now=now)
    question = Question(name, "runs", partial(fetch_account, account_id, limit), is_enough)
    return ask(question, cache.get(name), now=now, deadline=deadline, only_fresh=only_fresh)


def fetch_account(account_id: UUID, limit: int, *, now: datetime, deadline: Deadline) -> Snapshot:
    page = upstream.client().list_runs(tag=f"{ACCOUNT_TAG}{account_id}", limit=limit, deadline=deadline())
    tagged = [without(run, LEFT_OUT_OF_LISTS) for run in page.runs if account_id in tagged_accounts(run)]
    taken = snapshots.take(tagged, at=now, fresh_until=now + snapshots.UNFINISHED_FOR)
    return keep(account_name(account_id, limit), taken)


def retrieve(
    caller: Account,
    run_id: str,
    *,
    account_id: UUID | None,
    now: datetime,
    deadline: float,
    only_fresh: bool = False,
) -> Known:
    """One run with payload and output, as the caller may see it.

    Raises RunNotFound, or a TriggerError where nothing is known of it. What is not the caller's is asked for like what
    nobody has asked for before, so that the two do not differ, whatever is kept of them and however Trigger.dev is.
    """
    if not RUN_ID.fullmatch(run_id):
        raise RunNotFound
    name, unknown = run_name(run_id), unknown_name(run_id, caller, account_id)
    kept: dict[str, Any] = cache.get_many([name, unknown])
    if unknown in kept:
        raise RunNotFound
    former: Snapshot | None = kept.get(name)
    seen = as_known(caller, former, account_id=account_id)
    try:
        if seen is None:
            return look_up(caller, run_id, account_id=account_id, now=now, deadline=deadline)
        known = ask(about_run(run_id, now=now), former, now=now, deadline=deadline, only_fresh=only_fresh)
        return Known(seen, known.status) if known.snapshot is former else as_seen(caller, known, account_id)
    except (errors.NotFound, RunNotFound):
        cache.set(unknown, True, UNKNOWN_FOR)
        raise RunNotFound from None


def look_up(caller: Account, run_id: str, *, account_id: UUID | None, now: datetime, deadline: float) -> Known:
    """A run that is not known to be the caller's. It is not asked for together with its owner, who may be asking just
    now: a stranger would be answered too soon.
    """
    is_enough = partial(is_fresh_and_own, caller, account_id=account_id, now=now)
    question = replace(about_run(run_id, now=now), is_enough=is_enough, asked_as=f"{run_name(run_id)} for {caller.pk}")
    with looking_up():
        return as_seen(caller, ask(question, None, now=now, deadline=deadline), account_id)


def about_run(run_id: str, *, now: datetime) -> Question:
    return Question(run_name(run_id), "run", partial(fetch_run, run_id), is_enough=partial(Snapshot.is_fresh, now=now))


def as_seen(caller: Account, known: Known, account_id: UUID | None) -> Known:
    """Raises RunNotFound for what is not the caller's."""
    seen = as_known(caller, known.snapshot, account_id=account_id)
    if seen is None:
        raise RunNotFound
    return Known(seen, known.status)


def look_at_started(caller: Account, run_id: str, *, account_id: UUID, now: datetime, deadline: float) -> Known:
    """A run that the caller has just started. That it is not found yet is not remembered; raises RunNotFound for it."""
    call = partial(fetch_run, run_id, now=now, deadline=lambda: deadline)
    (answer,) = upstream.wait_for_calls({run_name(run_id): call}, deadline=deadline).values()
    if isinstance(answer, BaseException):
        raise answer
    return as_seen(caller, Known(answer, RunsStatus.FRESH), account_id)


def is_fresh_and_own(caller: Account, snapshot: Snapshot, *, account_id: UUID | None, now: datetime) -> bool:
    """Told from the snapshot alone; what is fresh and not the caller's must be asked for, like what nobody knows."""
    return snapshot.is_fresh(now=now) and is_own(caller, snapshot, account_id=account_id)


def is_own(caller: Account, snapshot: Snapshot, *, account_id: UUID | None) -> bool:
    own = str(account_id or caller.pk)
    return all(own in tagged for tagged in snapshot.tags)


def as_known(caller: Account, snapshot: Snapshot | None, *, account_id: UUID | None) -> Snapshot | None:
    """What of it the caller may see; all of it, without looking any further, where all of it is tagged as its own."""
    if snapshot is None or is_own(caller, snapshot, account_id=account_id):
        return snapshot
    seen = as_seen_by(caller, snapshot.runs()[0], account_id=account_id)
    return snapshot._replace(encoded=snapshots.encoded(seen)) if seen is not None else None


def fetch_run(run_id: str, *, now: datetime, deadline: Deadline) -> Snapshot:
    try:
        run = upstream.client().retrieve_run(run_id, deadline=deadline())
    except errors.NotFound:
        cache.delete(run_name(run_id))
        raise
    run = without_nested(run)
    related = list(related_runs(run))
    fresh_until = snapshots.fresh_run_until([run, *related], now=now)
    taken = keep(run_name(run_id), snapshots.take([run], at=now, fresh_until=fresh_until, related=related))
    cache.set(dated_name(run_id), taken.as_of, LAST_KNOWN_FOR)
    return taken


def newer_than(seen: Mapping[str, datetime]) -> dict[str, Snapshot]:
    """What others have brought since, by run id. Only their moments are read where there is nothing new."""
    names = {dated_name(run_id): run_id for run_id in seen}
    dates: dict[str, datetime] = cache.get_many(names)
    news = {run_name(names[name]): names[name] for name, as_of in dates.items() if as_of != seen[names[name]]}
    kept: dict[str, Snapshot] = cache.get_many(news) if news else {}
    return {news[name]: snapshot for name, snapshot in kept.items()}


def account_name(account_id: UUID, limit: int) -> str:
    return upstream.cache_name("account", f"{account_id}:{limit}")


def run_name(run_id: str) -> str:
    return upstream.cache_name("run", run_id)


def dated_name(run_id: str) -> str:
    return upstream.cache_name("run-dated", run_id)


def unknown_name(run_id: str, caller: Account, account_id: UUID | None) -> str:
    """The one name of a caller: what is not there and what is not for them must cost them the same."""
    return upstream.cache_name("unknown-run", f"{run_id} {caller.pk} {account_id}")
