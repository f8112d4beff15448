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
from typing import cast

from django.conf import settings
from django.core.cache import cache

from tasks import snapshots, upstream
from tasks.snapshots import SHORT_LIVED, Snapshot
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


Enough = Callable[[Snapshot], bool]
Deadline = Callable[[], float]


def ask(
    name: str,
    kept: Snapshot | None,
    fetch: Callable[..., Snapshot],
    *,
    route: Route,
    is_enough: Enough,
    now: datetime,
    deadline: float,
    waits: bool = False,
    question: str = "",
) -> Known:
    """`waits`: for what is no longer fresh, instead of showing it. `question`: whom it is one question for; else all.

    Raises the TriggerError of a question that nothing is known of.
    """
    if kept is not None and kept.is_fresh(now=now):
        return Known(kept, RunsStatus.FRESH)
    if kept is not None and kept.is_shown(now=now) and not waits:
        behind = partial(fetch, now=now, deadline=upstream.deadline_from_now)
        upstream.ask_behind(name, partial(alone, name, behind, is_enough, route=route))
        return Known(last_known(kept), RunsStatus.STALE)
    question = question or name
    fetch = partial(fetch, now=now, deadline=lambda: deadline)
    call = partial(alone, name, fetch, is_enough, route=route, question=question)
    (answer,) = upstream.ask_together({question: call}, deadline=deadline).values()
    if isinstance(answer, Snapshot):
        return Known(answer, RunsStatus.FRESH)
    if kept is None or isinstance(answer, errors.NotFound):
        raise answer
    return Known(last_known(kept), RunsStatus.STALE)


def last_known(kept: Snapshot) -> Snapshot:
    """Without addresses that have expired since."""
    if not kept.is_short_lived:
        return kept
    runs = [snapshots.encoded(without(run, SHORT_LIVED)) for run in kept.runs()]
    return kept._replace(encoded=b",".join(runs))


def alone(name: str, fetch: Callable[[], Snapshot], is_enough: Enough, *, route: Route, question: str = "") -> Snapshot:
    """Fetches, unless what is enough has come since the cache was looked into.

    Within a process a question is asked once at a time; where the cache is shared, among all processes.
    """
    if not settings.CACHE_IS_SHARED:
        return kept_or(fetch, name, is_enough)
    lock, until = f"{question or name}:asking", time.monotonic() + ASKED_BY_ANOTHER_FOR
    while not (is_ours := cache.add(lock, True, ASKED_BY_ANOTHER_FOR)) and time.monotonic() < until:
        if upstream.manners().leaves_alone(route):  # then nobody brings it, and nobody is asked
            break
        time.sleep(LOOK_EVERY)
    try:
        return kept_or(fetch, name, is_enough)
    finally:
        if is_ours:
            cache.delete(lock)


def kept_or(fetch: Callable[[], Snapshot], name: str, is_enough: Enough) -> Snapshot:
    """Whoever asked before may have brought it."""
    kept: Snapshot | None = cache.get(name)
    return kept if kept is not None and is_enough(kept) else fetch()


def keep(name: str, snapshot: Snapshot) -> Snapshot:
    """What is known now: nothing out of date takes the place of what is not, and nothing huge that of all else."""
    kept: Snapshot | None = cache.get(name)
    if kept is not None and not snapshot.supersedes(kept):
        return kept
    if len(snapshot.encoded) <= LARGEST_KEPT:
        cache.set(name, snapshot, LAST_KNOWN_FOR)
    return snapshot


def without(run: Run, keys: Iterable[str]) -> Run:
    return cast(Run, {key: value for key, value in run.items() if key not in keys})
