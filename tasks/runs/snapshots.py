"""A snapshot of runs: their bytes, how long it is fresh, how long it may still be shown, and whose runs are in it.

A schedule's runs change only when it fires, or while one of them is not finished. Runs are kept encoded, beside what
the access check and the freshness need, so that they go into an answer without being decoded.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

import orjson

from tasks.runs.owners import account_tags
from tasks.trigger.types import Run

# Trigger.dev's own isCompleted is false for the last two (recorded: run_get_14_EXPIRED, run_get_15_TIMED_OUT).
FINAL = frozenset(
    ("COMPLETED", "CANCELED", "FAILED", "CRASHED", "INTERRUPTED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT")
)
UNFINISHED_FOR = timedelta(seconds=2)
FINISHED_RUN_FOR = timedelta(hours=1)
# One that is no longer fresh is shown while it is asked for anew, until it is twice as old as it was fresh for.
SHOWN_AT_LEAST = timedelta(seconds=5)
# What is further ahead than this was taken by a wrong clock.
SKEW = timedelta(seconds=5)
SHORT_LIVED = ("payloadPresignedUrl", "outputPresignedUrl")


class Snapshot(NamedTuple):
    """What Trigger.dev said at `as_of`. `encoded`: the runs as JSON, newest first, with commas between them.

    `tags`: the different sets of accounts that its runs are tagged with. `newest_id`, `status`: of the first of them.
    `generation`: of the task that it is about.
    """

    encoded: bytes
    tags: tuple[frozenset[str], ...]
    newest_id: str | None
    status: str | None
    as_of: datetime
    fresh_until: datetime
    generation: int = 0
    is_short_lived: bool = False

    def is_fresh(self, *, now: datetime, generation: int = 0) -> bool:
        return now <= self.fresh_until and generation == self.generation and self.is_possible(now=now)

    @property
    def is_final(self) -> bool:
        """Whether the first of its runs will never change again."""
        return self.status in FINAL

    def supersedes(self, other: "Snapshot") -> bool:
        """Answers come in another order than they were asked for; and a run that has ended stays so, whatever comes."""
        if self.newest_id == other.newest_id and self.is_final != other.is_final:
            return self.is_final
        return self.as_of >= other.as_of or self.generation > other.generation

    def is_shown(self, *, now: datetime) -> bool:
        """Whether it may still be shown while it is asked for anew; an older one is waited for."""
        is_young = now <= self.as_of + max(SHOWN_AT_LEAST, 2 * (self.fresh_until - self.as_of))
        return is_young and self.is_possible(now=now)

    def is_possible(self, *, now: datetime) -> bool:
        """False for what a wrong clock has dated."""
        return self.as_of <= now + SKEW

    def runs(self) -> list[Run]:
        return cast(list[Run], json.loads(b"[" + self.encoded + b"]"))


def take(
    runs: Sequence[Run], *, at: datetime, fresh_until: datetime, generation: int = 0, related: Iterable[Run] = ()
) -> Snapshot:
    is_short_lived = any(key in run for run in runs for key in SHORT_LIVED)
    return Snapshot(
        encoded=b",".join(encoded(run) for run in runs),
        tags=tuple({frozenset(tag.lower() for tag in account_tags(run)) for run in (*runs, *related)}),
        newest_id=runs[0]["id"] if runs else None,
        status=runs[0]["status"] if runs else None,
        as_of=at,
        fresh_until=min(fresh_until, at + UNFINISHED_FOR) if is_short_lived else fresh_until,
        generation=generation,
        is_short_lived=is_short_lived,
    )


def encoded(value: Any) -> bytes:
    """As JSON. orjson refuses half of a surrogate pair and numbers over 64 bits, which Trigger.dev can send."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def fresh_run_until(runs: Iterable[Run], *, now: datetime) -> datetime:
    """Of a run and its related ones, which are shown with it."""
    return now + (FINISHED_RUN_FOR if all(run["status"] in FINAL for run in runs) else UNFINISHED_FOR)
