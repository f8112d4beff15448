"""One run by id, with payload and output: retrieved from Trigger.dev, and cached for all who may see it.

While Trigger.dev is away, the stored copy is shown as stale. Access is checked after the cache. A run that the caller
may not see takes the same path as an unknown one.
"""

import json
import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.core.cache import cache
from django.db import DatabaseError
from django.utils import timezone

from accounts.models import Account
from tasks.gateway import upstream
from tasks.gateway.quota import count_lookup
from tasks.models import Run, RunOwner
from tasks.runs.copies import FINAL, PRESIGNED, encode, is_json_object, optional_timestamp
from tasks.runs.due import RunsStatus
from tasks.runs.owners import owners_of, related_runs, visible, without_related
from tasks.runs.store import store_retrieved
from tasks.trigger import errors

RUN_ID = re.compile(r"run_[0-9A-Za-z]{1,64}", re.ASCII)
UNFINISHED_FOR, FINAL_FOR, UNKNOWN_FOR = timedelta(seconds=2), timedelta(hours=1), timedelta(seconds=5)
# How long after its creation a run may be unknown to a replica.
NEW_FOR = timedelta(minutes=2)
# Bytes. A larger run is not cached.
MAX_CACHED = 1024 * 1024

logger = logging.getLogger(__name__)


class RunNotFound(Exception):
    """Unknown, malformed or not the caller's: one answer for all of them."""


class RetrievedRun(NamedTuple):
    """`encoded` is JSON. `owners`: of the run and of each related run, by run id."""

    id: str
    encoded: bytes
    status: str
    updated_at: datetime | None
    owners: dict[str, frozenset[UUID]]
    as_of: datetime
    has_presigned: bool


@dataclass(frozen=True)
class SeenRun:
    """A run as a caller may see it, as JSON."""

    encoded: bytes
    status: str
    runs_status: RunsStatus
    as_of: datetime
    has_presigned: bool = False

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


def retrieve(
    caller: Account,
    run_id: str,
    *,
    account_id: UUID | None,
    deadline: float,
    newer_than: datetime | None = None,
) -> SeenRun:
    """Raises RunNotFound; and a TriggerError where Trigger.dev does not answer and nothing is stored.

    `newer_than`: a cached answer must be at least as new as this `updatedAt`.
    """
    if not RUN_ID.fullmatch(run_id):
        raise RunNotFound
    name, unknown = run_name(run_id), upstream.cache_name("unknown-run", f"{run_id} {caller.pk} {account_id}")
    cached = cache.get_many([name, unknown])
    if unknown in cached:
        raise RunNotFound
    run: RetrievedRun | None = cached.get(name)
    seen = as_seen(caller, run, account_id=account_id) if run is not None and is_current(run, newer_than) else None
    if seen is not None:
        return seen
    try:
        run = look_up(caller, run_id, deadline=deadline, newer_than=newer_than)
        seen = as_seen(caller, run, account_id=account_id)
    except errors.NotFound:
        seen = stored_run(caller, run_id, account_id=account_id, is_unknown=True)
    except errors.TriggerError:
        seen = stored_run(caller, run_id, account_id=account_id)
        if seen is None:
            raise
    if seen is None:
        cache.set(unknown, True, UNKNOWN_FOR.total_seconds())
        raise RunNotFound
    return seen


def retrieve_for_staff(run_id: str, *, deadline: float) -> tuple[dict[str, Any], bool]:
    """A run for the admin site, whose staff may see every run; and whether Trigger.dev gave it.

    Raises RunNotFound. While Trigger.dev is away it is the stored copy, without payload and output.
    """
    if not RUN_ID.fullmatch(run_id):
        raise RunNotFound
    run: RetrievedRun | None = cache.get(run_name(run_id))
    try:
        run = run or fetch_once(run_id, partial(fetch, run_id, deadline=deadline), deadline=deadline)
    except errors.TriggerError:
        stored = Run.objects.filter(pk=run_id).first()
        if stored is None or not is_json_object(stored.data):
            raise RunNotFound from None
        return json.loads(stored.data), False
    return json.loads(run.encoded), True


def retrieve_started(caller: Account, run_id: str, *, account_id: UUID, deadline: float) -> SeenRun:
    """A run that the caller has just started. That it is not found yet is not cached; a TriggerError says it."""
    run = fetch_once(run_id, partial(fetch, run_id, deadline=deadline), deadline=deadline)
    seen = as_seen(caller, run, account_id=account_id)
    if seen is None:
        raise RunNotFound
    return seen


def look_up(caller: Account, run_id: str, *, deadline: float, newer_than: datetime | None) -> RetrievedRun:
    """Counts for the caller whose request makes the call. Where that one has made too many, another makes its own."""

    def counted() -> RetrievedRun:
        count_lookup(caller.pk)
        return fetch(run_id, deadline=deadline)

    try:
        return fetch_once(run_id, counted, deadline=deadline, newer_than=newer_than)
    except errors.QuotaExceeded:
        return counted()


def fetch_once(
    run_id: str, call: Callable[[], RetrievedRun], *, deadline: float, newer_than: datetime | None = None
) -> RetrievedRun:
    """Requests of this process share a call. One that began too early is followed by another."""
    run = upstream.call_once(run_name(run_id), call, deadline=deadline)
    return run if is_current(run, newer_than) else upstream.call_once(run_name(run_id), call, deadline=deadline)


def fetch(run_id: str, *, deadline: float) -> RetrievedRun:
    now = timezone.now()
    run = without_related(upstream.client().retrieve_run(run_id, deadline=deadline))
    all_runs = [run, *related_runs(run)]
    owners = {item["id"]: frozenset(owners_of(item)) for item in all_runs}
    has_presigned = any(key in run for key in PRESIGNED)
    updated_at = optional_timestamp(run["updatedAt"])
    retrieved = RetrievedRun(run["id"], encode(run).encode(), run["status"], updated_at, owners, now, has_presigned)
    # Before others see it in the cache: who waits for it reads the stored status.
    try:
        store_retrieved(run, owners[run["id"]], as_of=now)
    except DatabaseError:
        logger.exception("The retrieved run %s could not be stored", run_id)
    is_final = all(item["status"] in FINAL for item in all_runs) and not has_presigned
    if len(retrieved.encoded) <= MAX_CACHED:
        cache.set(run_name(run_id), retrieved, (FINAL_FOR if is_final else UNFINISHED_FOR).total_seconds())
    return retrieved


def is_current(run: RetrievedRun, newer_than: datetime | None) -> bool:
    return newer_than is None or (run.updated_at is not None and run.updated_at >= newer_than)


def as_seen(caller: Account, run: RetrievedRun, *, account_id: UUID | None) -> SeenRun | None:
    """Without related runs that the caller may not see; None when the caller may not see the run."""
    seen = visible(caller, run.owners, account_id=account_id)
    if run.id not in seen:
        return None
    encoded, hidden = run.encoded, run.owners.keys() - seen
    if hidden:
        encoded = encode(without_related(json.loads(encoded), hidden)).encode()
    return SeenRun(encoded, run.status, RunsStatus.FRESH, run.as_of, run.has_presigned)


def stored_run(caller: Account, run_id: str, *, account_id: UUID | None, is_unknown: bool = False) -> SeenRun | None:
    """The copy that lists show, without payload and output.

    `is_unknown`: Trigger.dev does not know it. It forgets old runs, whose end is still history, and its replicas do not
    know the newest ones yet.
    """
    run = Run.objects.select_related("task").filter(pk=run_id).first()
    if is_unknown and run is not None and not run.is_final and run.created_at < timezone.now() - NEW_FOR:
        return None
    owners: Collection[UUID] = RunOwner.objects.filter(run=run_id).values_list("account_id", flat=True)
    if (
        run is None
        or not is_json_object(run.data)
        or not visible(caller, {run_id: frozenset(owners)}, account_id=account_id)
    ):
        return None
    polled_at = run.task.polled_at if run.task is not None else None
    return SeenRun(run.data.encode(), run.status, RunsStatus.STALE, max(run.stored_at, polled_at or run.stored_at))


def run_name(run_id: str) -> str:
    return upstream.cache_name("run", run_id)
