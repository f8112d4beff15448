"""What is known of runs, and asking for what is not: once, however many want to know, within and among processes.

When Trigger.dev does not answer, the last known is shown and called `stale`; nothing is ever made up.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Protocol, cast

from django.conf import settings
from django.core.cache import cache
from django.utils import timezone

from tasks.gateway import upstream
from tasks.runs import snapshots
from tasks.runs.snapshots import SHORT_LIVED, Snapshot
from tasks.trigger import errors
from tasks.trigger.client import Route
from tasks.trigger.types import Run

LAST_KNOWN_FOR = 24 * 3600
LARGEST_KEPT = 1024 * 1024
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
    def is_final(self) -> bool:
        """Whether the first of its runs, often the only one, will never change again."""
        return self.snapshot is not None and self.snapshot.is_final

    @property
    def as_of(self) -> datetime | None:
        return self.snapshot.as_of if self.snapshot else None


UNAVAILABLE = Known(None, RunsStatus.UNAVAILABLE)


Deadline = Callable[[], float]


class Fetch(Protocol):
    def __call__(self, *, now: datetime, deadline: Deadline) -> Snapshot: ...


@dataclass(frozen=True)
class Question:
    """What Trigger.dev is asked, and where the answer is kept.

    `name`: of the cache entry. `is_enough`: of a kept one, that need not be asked for. `asked_as`: the name by which it
    is one question however many ask it, where that is not the entry's.
    """

    name: str
    route: Route
    fetch: Fetch
    is_enough: Callable[[Snapshot], bool]
    asked_as: str = ""

    @property
    def is_one_by(self) -> str:
        return self.asked_as or self.name


def ask(
    question: Question, kept: Snapshot | None, *, now: datetime, deadline: float, only_fresh: bool = False
) -> Known:
    """What is kept, while it is fresh or may be shown; else the answer, or what is kept where none comes.

    Raises the TriggerError of a question that nothing is known of.
    """
    if kept is not None and kept.is_fresh(now=now):
        return Known(kept, RunsStatus.FRESH)
    if kept is not None and kept.is_shown(now=now) and not only_fresh:
        ask_behind(question, now=now)
        return Known(last_known(kept), RunsStatus.STALE)
    call = partial(alone, question, now=now, deadline=lambda: deadline)
    (answer,) = upstream.wait_for_calls({question.is_one_by: call}, deadline=deadline).values()
    if isinstance(answer, Snapshot):
        return Known(answer, RunsStatus.FRESH)
    if kept is None or isinstance(answer, errors.NotFound):
        raise answer
    return Known(last_known(kept), RunsStatus.STALE)


def ask_behind(question: Question, *, now: datetime) -> None:
    upstream.call_in_background(
        question.is_one_by, partial(alone, question, now=now, deadline=upstream.deadline_from_now)
    )


def last_known(kept: Snapshot) -> Snapshot:
    """Without addresses that have expired since."""
    if not kept.is_short_lived:
        return kept
    runs = [snapshots.encoded(without(run, SHORT_LIVED)) for run in kept.runs()]
    return kept._replace(encoded=b",".join(runs))


def alone(question: Question, *, now: datetime, deadline: Deadline) -> Snapshot:
    """Fetches, unless what is enough has come since the cache was looked into.

    Within a process a question is asked once at a time; where the cache is shared, among all processes.
    """
    if not settings.CACHE_IS_SHARED:
        return kept_or_fetched(question, now=now, deadline=deadline)
    lock, until = f"{question.is_one_by}:asking", time.monotonic() + ASKED_BY_ANOTHER_FOR
    while not (is_ours := cache.add(lock, True, ASKED_BY_ANOTHER_FOR)) and time.monotonic() < until:
        if upstream.gate().would_refuse(question.route):  # then nobody brings it, and nobody is asked
            break
        time.sleep(LOOK_EVERY)
    try:
        return kept_or_fetched(question, now=now, deadline=deadline)
    finally:
        if is_ours:
            cache.delete(lock)


def kept_or_fetched(question: Question, *, now: datetime, deadline: Deadline) -> Snapshot:
    """Whoever asked before may have brought it."""
    kept: Snapshot | None = cache.get(question.name)
    return kept if kept is not None and question.is_enough(kept) else question.fetch(now=now, deadline=deadline)


def keep(name: str, snapshot: Snapshot) -> Snapshot:
    """What is known now: nothing out of date takes the place of what is not, and nothing huge that of all else."""
    kept: Snapshot | None = cache.get(name)
    if kept is not None and kept.is_possible(now=timezone.now()) and not snapshot.supersedes(kept):
        return kept
    if len(snapshot.encoded) <= LARGEST_KEPT:
        cache.set(name, snapshot, LAST_KNOWN_FOR)
    return snapshot


def without(run: Run, keys: Iterable[str]) -> Run:
    return cast(Run, {key: value for key, value in run.items() if key not in keys})
