"""Thousands of random plays of polling end right, and without any of its guards some of them do not."""

import inspect
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import time_machine

from demo.standin.standin import Standin
from tasks.cron import calendar
from tasks.models import Run
from tasks.runs import due, polling, run_now, shared, store, task_polls
from tests.cast import Cast
from tests.tasks.runs.plays import play

PLAYS = int(os.environ.get("PLAYS", "2000"))
FIRST_SEED = int(os.environ.get("SEED", "0"))
CHUNKS = 20
# How many plays a missing guard is given to show itself.
MAX_PLAYS = int(os.environ.get("GUARD_PLAYS", "120"))

# Where the guard is, its source, and what takes its place. Not here are three whose absence some hundred plays did not
# show, and that test_due.py and test_polling_tasks.py pin: polling again for a fire without its run, not calling fresh
# what is absent, and reading further pages.
GUARDS: dict[str, tuple[Any, str, str, str]] = {
    "a poll is as old as the moment before its first call": (
        *(task_polls.TaskPoller, "commit", "task.polled_at = max(began, task.polled_at or began)"),
        "task.polled_at = self.now()",
    ),
    "a claim ends": (polling.Poller, "claim", "until=now + LEASE)", "until=due.EVER)"),
    "the newer copy stays": (store, "supersedes", "return copy.updated_at > run.updated_at", "return True"),
    "a final copy is never undone": (store, "supersedes", "return copy.is_final\n", "return True\n"),
    "a fire without its run keeps the task from being fresh": (
        *(due, "quiet_until", "first = next(awaited(state), EVER)"),
        "first = next((fire.at for fire in state.fires if fire.at > state.polled_at), EVER)",
    ),
    "an unfinished run that the lists lack is retrieved": (
        *(task_polls.TaskPoller, "retrieve_missing", "for copy, run in retrieved if copy is not None]"),
        "for copy, run in ()]",
    ),
    "both expressions are possible near a change": (
        *(calendar, "change", "certain_until=period.certain_until or at - SKEW)"),
        "certain_until=at, possible_until=at)",
    ),
    "a run by hand is noted before it is started": (
        *(run_now, "store_request", "requested.update(run_by_hand_at=at)"),
        "pass",
    ),
    "six hours without a deep poll are too long": (
        *(
            task_polls.TaskPoller,
            "find",
            "is_deep = is_first or self.is_backfill or began >= state.deep_polled_at + due.DEEP_EVERY * 0.74",
        ),
        "is_deep = is_first",
    ),
    "the shared list counts when its last page was read": (
        *(shared.SharedPoller, "poll", "is_whole = page.next is None"),
        "is_whole, seen = True, {*Run.objects.values_list('pk', flat=True)}; break",
    ),
}


# A play that ends wrong without the guard, where it is not one of the first. A change of the code can make it another.
SEEN_IN = {
    "both expressions are possible near a change": 10,
    "a poll is as old as the moment before its first call": 17,
    "six hours without a deep poll are too long": 18,
    "a final copy is never undone": 25,
    "the newer copy stays": 25,
    "an unfinished run that the lists lack is retrieved": 28,
    "a claim ends": 62,
    "the shared list counts when its last page was read": 140,
}


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel("2026-11-24T12:00:00+00:00", tick=False) as traveller:
        yield traveller


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_play_ends_right(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller, record_property: Any, chunk: int
) -> None:
    count = PLAYS // CHUNKS
    first, fresh, wrong = FIRST_SEED + chunk * count, 0, {}
    for seed in range(first, first + count):
        one = play(seed, cast, trigger, clock)
        fresh += one.fresh_readings
        if one.complaints:
            wrong[seed] = dict(one.complaints)
    record_property("summary", f"plays {first} to {first + count - 1}: {fresh} readings shown as fresh, wrong: {wrong}")
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_some_play_ends_wrong(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller, record_property: Any, guard: str
) -> None:
    with without(guard):
        first = SEEN_IN.get(guard, FIRST_SEED)
        for seed in range(first, first + MAX_PLAYS):
            one = play(seed, cast, trigger, clock)
            if one.complaints:
                break
    record_property("summary", f"without {guard!r}: play {seed} ends wrong, {dict(one.complaints)}")
    assert one.complaints


@contextmanager
def without(guard: str) -> Iterator[None]:
    """One function of ours with its source changed."""
    owner, name, text, replacement = GUARDS[guard]
    original = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(text) == 1, f"update GUARDS: the source of {guard!r} has changed"
    scope = {**original.__globals__, "Run": Run}
    exec(compile(source.replace(text, replacement), name, "exec"), scope)  # noqa: S102  our own source
    setattr(owner, name, scope[name])
    try:
        yield
    finally:
        setattr(owner, name, original)
