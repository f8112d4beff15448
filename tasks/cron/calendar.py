"""When a task can have fired: which cron expression was in force, and how certain that is. Pure.

After a change Trigger.dev holds the old expression until it has confirmed the new one, and it enqueues runs up to 30 s
before their time. So near a change the fires of both expressions are possible, and neither is certain.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice, takewhile
from typing import Any, NamedTuple

from tasks.cron import zones
from tasks.cron.expressions import CronError, parse
from tasks.cron.fire_times import times

# Two clocks may differ by this much.
SKEW = timedelta(seconds=2)
# How long after a confirmed change a fire of the old expression may still come.
OVERLAP = timedelta(seconds=60)
# A period that ended longer ago than this explains no fire that is still waited for.
KEPT_FOR = timedelta(hours=2)
# Rules for a time zone differ by an hour, seldom by more.
MAX_SHIFT = timedelta(hours=3)
# The most fires of one period that are looked at.
MAX_FIRES = 400


@dataclass(frozen=True)
class Period:
    """A cron expression in force. None: `possible_from` always, `certain_from` not yet, the others open end.

    `shift`: seconds from our fires to those of Trigger.dev, where it has other rules for the time zone. Then both are
    possible, and none is certain. `shift_from`: when that was learned.
    """

    schedule: str
    timezone: str
    possible_from: datetime | None = None
    certain_from: datetime | None = None
    certain_until: datetime | None = None
    possible_until: datetime | None = None
    shift: float = 0
    shift_from: datetime | None = None

    def iter_fires(self, *, since: datetime) -> Iterator["Fire"]:
        start = max(since, self.possible_from) if self.possible_from else since
        shift = timedelta(seconds=self.shift)
        try:
            found = self._times(since=start)
            if shift:
                found = merge(found, (at + shift for at in self._times(since=start - shift)))
            for at in islice(takewhile(self._is_possible, found), MAX_FIRES):
                yield Fire(at, self._is_certain(at))
        except (CronError, KeyError, ValueError):
            return  # Trigger.dev has refused it, or will: it never fires

    def own_times_near(self, at: datetime) -> list[datetime]:
        """By our rules, within what two sets of rules can be apart."""
        try:
            found = takewhile(lambda time: time <= at + MAX_SHIFT, self._times(since=at - MAX_SHIFT))
            return list(islice(found, MAX_FIRES))
        except (CronError, KeyError, ValueError):
            return []

    def _times(self, *, since: datetime) -> Iterator[datetime]:
        return times(parse(self.schedule), zones.zone(self.timezone), after=since - timedelta(microseconds=1))

    def _is_possible(self, at: datetime) -> bool:
        return self.possible_until is None or at < self.possible_until

    def _is_certain(self, at: datetime) -> bool:
        has_begun = not self.shift and self.certain_from is not None and at >= self.certain_from
        return has_begun and (self.certain_until is None or at < self.certain_until)


class Fire(NamedTuple):
    at: datetime
    is_certain: bool


def fires(periods: Sequence[Period], *, since: datetime, until: datetime) -> list[Fire]:
    """The fires from `since` to `until`, in order, and the first one after `until` of each period."""
    found: dict[datetime, bool] = {}
    for period in periods:
        for fire in period.iter_fires(since=since):
            found[fire.at] = found.get(fire.at, False) or fire.is_certain
            if fire.at > until:
                break
    return [Fire(at, is_certain) for at, is_certain in sorted(found.items())]


def change(periods: Sequence[Period], schedule: str | None, timezone: str, *, at: datetime) -> list[Period]:
    """After a write at `at`. `schedule` None: the task is paused or deleted, so it fires no more."""
    kept = [period for period in periods if period.possible_until is None or period.possible_until > at - KEPT_FOR]
    closed = [replace(period, certain_until=period.certain_until or at - SKEW) for period in kept]
    if schedule is None:
        return closed
    return [*closed, Period(schedule, timezone, possible_from=at - SKEW)]


def confirm(periods: Sequence[Period], *, at: datetime) -> list[Period]:
    """After Trigger.dev has confirmed the newest write: closed periods end soon, the open one is certain."""
    return [
        replace(period, certain_from=period.certain_from or at + SKEW)
        if period.certain_until is None
        else replace(period, possible_until=period.possible_until or at + OVERLAP)
        for period in periods
    ]


def shifted(periods: Sequence[Period], shift: timedelta, *, at: datetime) -> list[Period]:
    """It was learned at `at` that Trigger.dev's fires of the newest expression are so much later than ours."""

    def learned(period: Period) -> Period:
        is_news = period.certain_until is None and period.shift != shift.total_seconds()
        return replace(period, shift=shift.total_seconds(), shift_from=at) if is_news else period

    return [learned(period) for period in periods]


def learn(periods: Sequence[Period], ran: Iterable[datetime]) -> list[Period]:
    """What scheduled runs show of when Trigger.dev fires the newest expression.

    A run at a time of neither calendar shows how far the two are apart. A run at one of our times alone, from after
    that was learned, shows that they agree again; what came before stays uncertain.
    """
    learned = list(periods)
    for at in sorted(ran):
        for number, period in enumerate(learned):
            if period.certain_from is None or at < period.certain_from or period.certain_until is not None:
                continue
            near = period.own_times_near(at)
            is_shifted = bool(period.shift) and at - timedelta(seconds=period.shift) in near
            if at in near and not is_shifted and period.shift_from is not None and at > period.shift_from:
                learned[number] = replace(period, shift=0, shift_from=None, certain_from=at)
            elif at not in near and not is_shifted and near:
                nearest = min(near, key=lambda time: abs(time - at))
                learned[number] = replace(period, shift=(at - nearest).total_seconds(), shift_from=at)
    return learned


def to_json(periods: Sequence[Period]) -> list[dict[str, Any]]:
    return [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(period).items()}
        for period in periods
    ]


def from_json(stored: Sequence[Mapping[str, Any]]) -> list[Period]:
    return [
        Period(period["schedule"], period["timezone"], **timestamps_of(period), shift=period.get("shift", 0))
        for period in stored
    ]


def timestamps_of(period: Mapping[str, Any]) -> dict[str, datetime | None]:
    names = ("possible_from", "certain_from", "certain_until", "possible_until", "shift_from")
    texts = {name: period.get(name) for name in names}
    return {name: datetime.fromisoformat(text).astimezone(UTC) if text else None for name, text in texts.items()}
