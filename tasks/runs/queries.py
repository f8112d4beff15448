"""What Trigger.dev says of runs: asked once for many readers, and never when it is known.

A snapshot that is no longer fresh is shown while it is asked for anew behind the answer; an older one is waited for.

Cache entries name Trigger.dev's environment and the upstream thing, never a caller; access is checked after the cache.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.core.cache import cache

from accounts.models import Account
from tasks import cron
from tasks.gateway import upstream
from tasks.gateway.lookups import looking_up
from tasks.models import SyncStatus, Task
from tasks.runs import fires, snapshots
from tasks.runs.fires import Fire
from tasks.runs.known import (
    LAST_KNOWN_FOR,
    UNAVAILABLE,
    Deadline,
    Known,
    Question,
    RunsStatus,
    alone,
    ask,
    ask_behind,
    keep,
    without,
)
from tasks.runs.owners import ACCOUNT_TAG, as_seen_by, related_runs, tagged_accounts, without_nested
from tasks.runs.snapshots import Snapshot
from tasks.trigger import errors

RECENT = 5
RUN_ID = re.compile(r"run_[0-9A-Za-z]{1,64}", re.ASCII)
LEFT_OUT_OF_LISTS = ("payload", "output", "error", "attempts", "schedule", "relatedRuns")
UNKNOWN_FOR = 5
# While Trigger.dev does not hold what the task says, its next fire is anybody's guess.
PENDING_FOR = timedelta(seconds=30)

logger = logging.getLogger(__name__)


class Source(NamedTuple):
    """Where a task's runs are found: by its schedule, and those that somebody started by its tag."""

    kind: Literal["schedule", "tag"]
    name: str


class RunNotFound(Exception):
    """Unknown, malformed or not the caller's: one answer for all of them."""


# --- The runs of tasks -----------------------------------------------------------------------------------------------


def newest(
    sources: Mapping[Source, Task], *, now: datetime, deadline: float, only_fresh: bool = False
) -> tuple[dict[Source, Known], dict[str, Fire]]:
    """The newest runs of each source, and the last fire of each schedule, from one look into the cache.

    What has to be waited for is asked all at once, one call for each source, and for no longer than the deadline.
    """
    names = {newest_name(source): source for source in sources}
    fire_names = {fires.fire_name(source.name): source.name for source in sources if source.kind == "schedule"}
    kept: dict[str, Any] = cache.get_many([*names, *fire_names]) if names else {}
    known: dict[Source, Known] = {}
    waited_for: dict[str, tuple[Source, Question]] = {}
    for name, source in names.items():
        task, snapshot = sources[source], kept.get(name)
        question = about_newest(source, task, snapshot, now=now)
        if snapshot is not None and question.is_enough(snapshot):
            known[source] = Known(snapshot, RunsStatus.FRESH)
        elif snapshot is not None and snapshot.is_shown(now=now) and knows(snapshot, task) and not only_fresh:
            ask_behind(question, now=now)
            known[source] = Known(snapshot, RunsStatus.STALE)
        else:
            waited_for[question.is_one_by] = source, question
    calls = {
        asked_as: partial(alone, question, now=now, deadline=lambda: deadline)
        for asked_as, (_, question) in waited_for.items()
    }
    for asked_as, answer in upstream.wait_for_calls(calls, deadline=deadline).items():
        source, question = waited_for[asked_as]
        known[source] = fresh_or_last(answer, kept.get(question.name))
    return known, {schedule_id: kept[name] for name, schedule_id in fire_names.items() if name in kept}


def about_newest(source: Source, task: Task, former: Snapshot | None, *, now: datetime) -> Question:
    name = newest_name(source)
    return Question(
        name,
        "runs",
        partial(fetch_newest, source, task, former),
        is_enough=partial(is_fresh_for, task, now=now),
        # Whoever asks after an edit must not be given what was asked before it.
        asked_as=f"{name} {task.generation} {task.run_by_hand_at}",
    )


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
    next_fire = partial(next_fire_of if source.kind == "schedule" else started_by_hand, task)
    fresh_until = snapshots.fresh_until(runs, next_fire=next_fire, now=now)
    if task.sync_status is not SyncStatus.IN_SYNC:
        fresh_until = min(fresh_until, now + PENDING_FOR)
    taken = snapshots.take(runs, at=now, fresh_until=fresh_until, generation=task.generation)
    if source.kind == "schedule" and former and taken.newest_id and taken.newest_id != former.newest_id:
        fires.learn_behind(task, taken.newest_id)
    return keep(newest_name(source), taken)


def next_fire_of(task: Task, after: datetime) -> datetime | None:
    """A paused task fires no more, but may have fired right before it was paused."""
    try:
        fire = next(iter(cron.next_times(task.schedule, task.timezone, after=after, count=1)), None)
    except (cron.CronError, KeyError, ValueError):
        return None
    return fire if task.is_enabled or (fire is not None and fire <= task.updated_at) else None


def started_by_hand(task: Task, after: datetime) -> datetime | None:
    """What a fire is to a schedule: from then on a run is waited for."""
    started = task.run_by_hand_at
    return started if started is not None and started > after else None


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


def newest_name(source: Source) -> str:
    return upstream.cache_name(source.kind, source.name)


def account_name(account_id: UUID, limit: int) -> str:
    return upstream.cache_name("account", f"{account_id}:{limit}")


def run_name(run_id: str) -> str:
    return upstream.cache_name("run", run_id)


def dated_name(run_id: str) -> str:
    return upstream.cache_name("run-dated", run_id)


def unknown_name(run_id: str, caller: Account, account_id: UUID | None) -> str:
    """The one name of a caller: what is not there and what is not for them must cost them the same."""
    return upstream.cache_name("unknown-run", f"{run_id} {caller.pk} {account_id}")
