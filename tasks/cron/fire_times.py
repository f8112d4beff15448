"""When a cron expression fires next, in agreement with Trigger.dev.

Trigger.dev asks cron-parser 4.9 for one time after another. croniter walks the calendar days here; the times of day and
what happens where clocks change follow cron-parser. tests/data/cron-oracle.jsonl is the proof. Time is an argument.
"""

import heapq
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby, islice
from zoneinfo import ZoneInfo

from croniter import croniter

from tasks.cron import zones
from tasks.cron.expressions import Cron, CronError, parse

# cron-parser gives up after this many steps; where no day matches, a step is a day.
HORIZON = timedelta(days=10_000)
CACHED_DAYS = 12
ONE_HOUR = timedelta(hours=1)


def check(expression: str) -> None:
    """Raises CronError with the reason when Trigger.dev would not take the expression, or break on it."""
    cron = parse(expression)
    if next(days(cron, start=date(2024, 1, 1)), None) is None:
        raise CronError("It never matches a date.")


def next_times(expression: str, timezone: str, *, after: datetime, count: int = 10) -> list[datetime]:
    """The next times after `after` (aware) at which the expression fires, read in the IANA zone; aware, in UTC.

    Raises CronError for an expression, and KeyError for a zone, that is not one. None for one that never fires.
    """
    return list(islice(times(parse(expression), zones.zone(timezone), after=after), count))


# --- Which days ------------------------------------------------------------------------------------------------------


def days(cron: Cron, *, start: date) -> Iterator[date]:
    """The days from `start` on that the expression names, in order."""
    merged = heapq.merge(*(walk(pattern, start=start) for pattern in day_patterns(cron)))
    last = start
    for day, _ in groupby(merged):
        if day - last > HORIZON:
            return
        if cron.occurrence is None or (day.day + 6) // 7 == cron.occurrence:
            last = day
            yield day


def day_patterns(cron: Cron) -> Iterator[str]:
    """One pattern of croniter for each atom of the day fields.

    Both fields restricted: either may match. Whether the days of the month are restricted depends on the month.
    """
    every_weekday = not cron.names_weekdays
    open_months = [month for month in cron.months if every_weekday or cron.names_days_in(month)]
    by_day = listed(open_months)
    if by_day:
        if cron.days:
            yield f"0 0 {listed(cron.days)} {by_day} *"
        if cron.last_day:
            yield f"0 0 L {by_day} *"
    if not every_weekday:
        weekdays = {weekday % 7 for weekday in cron.weekdays}
        if weekdays:
            yield f"0 0 * {listed(cron.months)} {listed(weekdays)}"
        for weekday in cron.last_weekdays:
            yield f"0 0 * {listed(cron.months)} L{weekday}"


def listed(values: Iterable[int]) -> str:
    return ",".join(str(value) for value in sorted(set(values)))


def walk(pattern: str, *, start: date) -> Iterator[date]:
    """The days of one pattern by the calendar alone, without a time zone."""
    first = first_days(pattern, start)
    yield from first
    if len(first) == CACHED_DAYS:
        yield from walked(pattern, first[-1] + timedelta(days=1))


@lru_cache(maxsize=4096)
def first_days(pattern: str, start: date) -> tuple[date, ...]:
    """Most expressions share their pattern of days, and croniter takes longer to read one than to walk it."""
    return tuple(islice(walked(pattern, start), CACHED_DAYS))


def walked(pattern: str, start: date) -> Iterator[date]:
    before = datetime.combine(start, time()) - timedelta(days=1)
    for found in croniter(pattern, before, max_years_between_matches=HORIZON.days // 365).all_next(datetime):
        yield found.date()


def times(cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    after = after.astimezone(UTC)
    for day in days(cron, start=after.astimezone(zone).date()):
        found = usual_instants(day, cron, zone) or unusual_instants(day, cron, zone, after=after)
        yield from (instant for instant in found if instant > after)


def usual_instants(day: date, cron: Cron, zone: ZoneInfo) -> Iterator[datetime] | None:
    """The instants of a day on which the clocks do not change; None for one on which they do."""
    midnight = datetime.combine(day, time(), zone)
    offset = midnight.utcoffset() or timedelta()
    if offset != midnight.replace(fold=1).utcoffset() or offset != (midnight + timedelta(days=1)).utcoffset():
        return None
    start = datetime.combine(day, time(), UTC) - offset
    return (start + timedelta(hours=hour, minutes=minute) for hour, minute in cron.clock_times)


def unusual_instants(day: date, cron: Cron, zone: ZoneInfo, *, after: datetime) -> list[datetime]:
    walls = (datetime.combine(day, time(hour, minute)) for hour, minute in cron.clock_times)
    return sorted({instant for wall in walls for instant in instants(wall, cron, zone, after=after)})


def instants(wall: datetime, cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        yield first
    elif first > second:
        yield from late_instant(wall, cron, zone, after=after)
    else:
        yield first
        if fires_twice(wall, cron, zone, after=after):
            yield second


def late_instant(wall: datetime, cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    """In the spring gap a named hour fires once, an hour late, at its first minute; not in a gap at midnight."""
    if not cron.names_hours or wall.hour == 0 or wall.minute != cron.minutes[0]:
        return
    gap = wall.replace(minute=0, tzinfo=zone)
    opened = gap.replace(fold=0).astimezone(UTC)
    if gap.utcoffset() is not None and gap.replace(fold=1).astimezone(UTC) + ONE_HOUR == opened and after < opened:
        yield wall.replace(tzinfo=zone, fold=0).astimezone(UTC)


def fires_twice(wall: datetime, cron: Cron, zone: ZoneInfo, *, after: datetime) -> bool:
    """In the autumn fold a named hour fires in the first pass only, unless the search starts inside the second."""
    second_pass = wall.replace(minute=0, tzinfo=zone, fold=1).astimezone(UTC)
    whole_hour = second_pass - wall.replace(minute=0, tzinfo=zone, fold=0).astimezone(UTC) == ONE_HOUR
    return not cron.names_hours or not whole_hour or after >= second_pass
