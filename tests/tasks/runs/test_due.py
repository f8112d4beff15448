"""When a task is polled next, when its runs are fresh, and what became of its fires."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.cron.calendar import Fire
from tasks.runs.due import NEVER, Outcome, PollState, Unfinished, as_of, is_fresh, next_poll, outcome, quiet_until

NINE = datetime(2026, 11, 26, 9, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NINE + timedelta(seconds=seconds)


def state(polled: float, **fields: Any) -> PollState:
    """A task that fires at nine for certain, and was polled so many seconds after."""
    polled_at = after(polled)
    defaults: dict[str, Any] = {"fires": (Fire(NINE, True), Fire(after(86400), True)), "deep_polled_at": polled_at}
    return PollState(polled_at=polled_at, spread=0.5, **{**defaults, **fields})


RAN = {"known": {NINE: after(1)}}
RUNNING = (Unfinished(stored_at=after(1), created_at=NINE),)


@pytest.mark.parametrize(
    ("polled", "fields", "is_watched", "due_after"),
    [
        # A fire whose run is missing.
        (-100, {}, True, 1),
        (1, {}, True, 5),
        (5, {}, True, 12),
        (12, {}, True, 30),
        (60, {}, True, 120),
        (120, {}, True, 420),
        (4100, {}, True, 4200),
        (-100, {}, False, 480),
        (480, {}, False, 1380),
        (4000, {}, False, 4200),
        # Nothing is expected before the deep poll.
        (60, RAN, True, 60 + 6 * 3600 * 0.875),
        (60, RAN, False, 60 + 6 * 3600 * 0.875),
        # An unfinished run.
        (10, {**RAN, "unfinished": RUNNING}, True, 12),
        (61, {**RAN, "unfinished": RUNNING}, True, 66),
        (61, {**RAN, "unfinished": RUNNING}, False, 961),
        # An unfinished run that no list shows.
        (61, {**RAN, "unfinished": (Unfinished(after(1), NINE, absent_at=after(51)),)}, True, 71),
        # An open run request.
        (10, {**RAN, "request_open_until": after(100)}, True, 13),
    ],
)
def test_the_next_poll(polled: float, fields: dict[str, Any], is_watched: bool, due_after: float) -> None:
    assert next_poll(state(polled, **fields), is_watched=is_watched, shared_as_of=NEVER) == after(due_after)


def test_a_task_that_was_never_polled_is_due() -> None:
    never = PollState(polled_at=None, deep_polled_at=NEVER, spread=0.0)
    assert next_poll(never, is_watched=False, shared_as_of=NEVER) == NEVER


def test_a_current_shared_list_saves_polls_of_unfinished_runs() -> None:
    running = state(61, **RAN, unfinished=RUNNING)
    assert next_poll(running, is_watched=True, shared_as_of=after(58)) == after(361)


def test_a_possible_fire_is_given_up_after_two_minutes() -> None:
    possible = (Fire(NINE, False),)
    assert next_poll(state(119, fires=possible), is_watched=True, shared_as_of=NEVER) == after(121)
    assert next_poll(state(120, fires=possible), is_watched=True, shared_as_of=NEVER) > after(3600)


def test_a_fire_is_passed_by_when_the_run_of_a_later_one_is_known() -> None:
    fires = (Fire(NINE, True), Fire(after(300), True))
    assert quiet_until(state(320, fires=fires, known={after(300): after(301)})) == after(320)
    assert quiet_until(state(380, fires=fires, known={after(300): after(301)})) > after(3600)


def fresh(polled_state: PollState, *, now: float, unfinished: float | None = None, shared: float | None = None) -> bool:
    until = as_of(
        quiet_until(polled_state),
        polled_state.polled_at,
        after(unfinished) if unfinished is not None else None,
        after(shared) if shared is not None else None,
    )
    return until is not None and is_fresh(until, now=after(now))


@pytest.mark.parametrize(
    ("polled", "fields", "now", "expected"),
    [
        (-3600, {}, 7, True),
        (-3600, {}, 9, False),
        (5, {}, 12, True),
        (5, {}, 14, False),
        (5, RAN, 3600, True),
        (5, {**RAN, "request_open_until": after(100)}, 14, False),
        (61, {**RAN, "unfinished": (Unfinished(after(1), NINE, absent_at=after(30)),)}, 39, False),
    ],
)
def test_runs_are_fresh_until_something_may_have_changed(
    polled: float, fields: dict[str, Any], now: float, expected: bool
) -> None:
    assert fresh(state(polled, **fields), now=now) is expected


@pytest.mark.parametrize(
    ("now", "stored", "shared", "expected"),
    [(17, 1, None, True), (19, 1, None, False), (40, 1, 35, True), (40, 34, 35, False)],
)
def test_an_unfinished_run_is_as_old_as_the_last_poll_or_the_shared_list(
    now: float, stored: float, shared: float | None, expected: bool
) -> None:
    """A run that was stored less than two seconds before the shared list may be missing from it."""
    assert fresh(state(10, **RAN), now=now, unfinished=stored, shared=shared) is expected


def test_a_task_that_was_never_polled_is_not_fresh() -> None:
    assert as_of(None, None, None, None) is None


@pytest.mark.parametrize(
    ("polled", "fields", "expected"),
    [
        (30, {}, Outcome.UNKNOWN),
        (60, {}, Outcome.LATE),
        (4199, {}, Outcome.LATE),
        (4200, {}, Outcome.MISSED),
        (4200, RAN, Outcome.RAN),
    ],
)
def test_the_outcome_of_a_fire(polled: float, fields: dict[str, Any], expected: Outcome) -> None:
    assert outcome(Fire(NINE, True), state(polled, **fields)) is expected


def test_a_fire_that_was_only_possible_is_never_missed() -> None:
    assert outcome(Fire(NINE, False), state(7200)) is Outcome.UNKNOWN
