"""When a task has to be polled next, and whether what is stored is fresh. Pure, and written as tables.

A task is polled when its own schedule says that something has happened. Both functions depend on stored state only, so
any process computes the same. shared/due_model.py is the model, with the guards that each line stands for.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from tasks.cron.calendar import Fire

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
EVER = datetime.max.replace(tzinfo=UTC)
# The promise is 10 s. Two clocks may differ by 2 s, and contents may lag behind the list of ids.
FRESH_FOR = timedelta(seconds=8)
MIN_PAUSE = timedelta(seconds=2)
# A fire whose run is missing is missed after this time; a fire that is only possible is given up earlier. More than an
# hour, so that a run that comes an hour late, by other rules for its time zone, is seen before.
MISSED_AFTER = timedelta(minutes=70)
GIVE_UP_POSSIBLE = timedelta(seconds=120)
# A fire is passed by when the run of a later one has been stored for this long: a schedule fires in order.
PASSED_AFTER = timedelta(seconds=60)
# Polls after a fire whose run is missing, for watched tasks; then in this interval.
RETRIES = tuple(timedelta(seconds=seconds) for seconds in (1, 5, 12, 30, 60, 120))
THEN_EVERY = timedelta(seconds=300)
# For unwatched tasks: the first poll after a fire, and the interval.
LAZY_FIRST, LAZY_EVERY = timedelta(seconds=60), timedelta(seconds=900)
# A poll that reads 100 runs, by schedule and by tag.
DEEP_EVERY = timedelta(hours=6)
# An unfinished run of a watched task: in its first minute, and later.
YOUNG, YOUNG_EVERY, OLD_EVERY = timedelta(seconds=60), timedelta(seconds=2), timedelta(seconds=5)
# The shared list of unfinished runs is current when it is at most this old.
SHARED_IS_CURRENT = timedelta(seconds=6)
# A run stored less than this before the shared list began may be missing from it.
SHARED_GRACE = timedelta(seconds=2)
# A run request is open until it is answered, at most this long.
REQUEST_OPEN_FOR = timedelta(seconds=120)
REQUEST_EVERY = timedelta(seconds=3)


class RunsStatus(StrEnum):
    """Of shown runs: at most 10 s behind Trigger.dev, possibly further behind, or never read."""

    FRESH = "fresh"
    STALE = "stale"
    UNAVAILABLE = "unavailable"


class Outcome(StrEnum):
    RAN = "ran"
    LATE = "late"
    MISSED = "missed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Unfinished:
    """An unfinished run. `absent_at`: when it was last certain, if a list or a retrieve failed to show it since."""

    stored_at: datetime
    created_at: datetime
    absent_at: datetime | None = None


@dataclass(frozen=True)
class PollState:
    """What is stored about a task. `spread`: fixed per task, 0 to 1. `known`: when the run of a fire was stored."""

    polled_at: datetime | None
    deep_polled_at: datetime
    spread: float
    fires: tuple[Fire, ...] = ()
    known: Mapping[datetime, datetime] = field(default_factory=dict)
    unfinished: tuple[Unfinished, ...] = ()
    request_open_until: datetime = NEVER


def awaited(state: PollState) -> Iterator[datetime]:
    """The fires whose run may still come, those in the future included, in order."""
    polled_at = state.polled_at or NEVER
    passed = [at for at, stored_at in state.known.items() if stored_at + PASSED_AFTER < polled_at]
    newest_passed = max(passed, default=NEVER)
    for fire in state.fires:
        if fire.at in state.known or fire.at < newest_passed:
            continue
        if polled_at < fire.at + (MISSED_AFTER if fire.is_certain else GIVE_UP_POSSIBLE):
            yield fire.at


def quiet_until(state: PollState) -> datetime:
    """The first moment at which something can have changed that the last poll does not know.

    Leaves out runs that are unfinished and not absent: the shared list may know them later, see `is_fresh`.
    """
    if state.polled_at is None:
        return NEVER
    first = next(awaited(state), EVER)
    moments = [max(first, state.polled_at)]
    moments += [run.absent_at for run in state.unfinished if run.absent_at is not None]
    if state.request_open_until > state.polled_at:
        moments.append(state.polled_at)
    return min(moments)


def is_fresh(as_of: datetime, *, now: datetime) -> bool:
    """Whether the answer is at most 10 s behind Trigger.dev's own lists."""
    return now - FRESH_FOR <= as_of


def as_of(
    quiet_until: datetime | None,
    polled_at: datetime | None,
    unfinished_stored_at: datetime | None,
    shared_as_of: datetime | None,
) -> datetime | None:
    """Until when the stored runs were certainly what Trigger.dev has; None before the first poll."""
    if polled_at is None or quiet_until is None:
        return None
    if unfinished_stored_at is None:
        return quiet_until
    return min(quiet_until, last_certain(unfinished_stored_at, polled_at, shared_as_of or NEVER))


def last_certain(stored_at: datetime, polled_at: datetime, shared_as_of: datetime) -> datetime:
    """When an unfinished run was last known to be as stored: at the last poll, or at the shared list."""
    return max(polled_at, shared_as_of) if stored_at < shared_as_of - SHARED_GRACE else polled_at


def next_poll(state: PollState, *, is_watched: bool, shared_as_of: datetime) -> datetime:
    """When the task is due: the earliest row of the table in DUE_MODEL.md."""
    if state.polled_at is None:
        return NEVER
    deep_at = state.deep_polled_at + DEEP_EVERY * (0.75 + 0.25 * state.spread)
    due = [deep_at, *after_fires(state, is_watched=is_watched, until=deep_at)]
    due += [after_unfinished(run, state.polled_at, is_watched, shared_as_of) for run in state.unfinished]
    if state.request_open_until > state.polled_at:
        due.append(state.polled_at + REQUEST_EVERY)
    return max(min(due), state.polled_at + MIN_PAUSE)


def after_fires(state: PollState, *, is_watched: bool, until: datetime) -> Iterator[datetime]:
    """For each awaited fire the next poll, up to the first fire after the last poll."""
    polled_at = state.polled_at or NEVER
    lazy = LAZY_FIRST + state.spread * (LAZY_EVERY - LAZY_FIRST)
    retries, interval = (RETRIES, THEN_EVERY) if is_watched else ((lazy,), LAZY_EVERY)
    for fire in awaited(state):
        last = max(fire + MISSED_AFTER, polled_at + MIN_PAUSE)
        yield next((fire + pause for pause in retries if fire + pause > polled_at), min(polled_at + interval, last))
        if fire > polled_at or fire > until:
            return


def after_unfinished(run: Unfinished, polled_at: datetime, is_watched: bool, shared_as_of: datetime) -> datetime:
    if run.absent_at is not None:
        return polled_at + max(MIN_PAUSE, min(THEN_EVERY, polled_at - run.absent_at))
    if not is_watched:
        return polled_at + LAZY_EVERY
    if shared_as_of > polled_at - SHARED_IS_CURRENT:
        return polled_at + THEN_EVERY
    return polled_at + (YOUNG_EVERY if polled_at - run.created_at < YOUNG else OLD_EVERY)


def outcome(fire: Fire, state: PollState) -> Outcome:
    """What became of a fire, as far as the last poll knows."""
    if fire.at in state.known:
        return Outcome.RAN
    if state.polled_at is None or not fire.is_certain or state.polled_at < fire.at + timedelta(seconds=60):
        return Outcome.UNKNOWN
    return Outcome.LATE if state.polled_at < fire.at + MISSED_AFTER else Outcome.MISSED


def missed(state: PollState) -> Iterable[datetime]:
    return (fire.at for fire in state.fires if outcome(fire, state) is Outcome.MISSED)
