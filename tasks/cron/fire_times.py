"""When an expression fires in a time zone, as Trigger.dev finds it: one time after another, each from the one before.

croniter walks the months, and `Cron.names` says which of their days fire; croniter combines the day fields differently
and treats clock changes differently. tests/data/cron-oracle.jsonl is the proof. Time is an argument.
"""

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from croniter import croniter

from tasks.cron import clock_changes, zones
from tasks.cron.expressions import Cron, CronError, parse

# cron-parser gives up after this many steps of its search.
MAX_STEPS = 10_000
# The work of one answer: so many named months are looked at, whatever the expression and however many times are wanted.
MAX_MONTHS = 600
CACHED_MONTHS = 12
ONE_DAY = timedelta(days=1)
NOON = time(12)


def check(expression: str) -> None:
    """Raises CronError with the reason when Trigger.dev would not take the expression, or break on it."""
    if next(days(parse(expression), start=date(2024, 1, 1)), None) is None:
        raise CronError("It never matches a date.")


def next_times(expression: str, timezone: str, *, after: datetime, count: int = 10) -> list[datetime]:
    """The next times after `after` (aware) at which the expression fires, read in the IANA zone; aware, in UTC.

    Fewer than `count` for an expression that never fires, or so rarely that the search ends before: `MAX_MONTHS`.
    Raises CronError for an expression, and KeyError for a zone, that is not one.
    """
    return list(islice(times(parse(expression), zones.zone(timezone), after=after), count))


def times(cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    last = after = after.astimezone(UTC)
    for day in days(cron, start=after.astimezone(zone).date()):
        for instant in times_of_day(day, cron, zone, after=last):
            last = instant
            yield instant


def times_of_day(day: date, cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    noon = datetime.combine(day, NOON, zone)
    offset = (noon - ONE_DAY).utcoffset()
    if offset is None or offset != (noon + ONE_DAY).utcoffset():
        yield from clock_changes.times_of_day(day, cron, zone, after=after)
        return
    start = datetime.combine(day, time(), UTC) - offset
    instants = (start + timedelta(hours=hour, minutes=minute) for hour, minute in cron.clock_times)
    yield from (instant for instant in instants if instant > after)


# --- Which days ------------------------------------------------------------------------------------------------------


def days(cron: Cron, *, start: date) -> Iterator[date]:
    """The days from `start` on that the expression names, in order."""
    last = start
    for month in islice(named_months(cron, start), MAX_MONTHS):
        for number in range(1, monthrange(month.year, month.month)[1] + 1):
            day = month.replace(day=number)
            if day >= start and cron.names(day):
                if (day - last).days >= MAX_STEPS and steps(cron, last, day) >= MAX_STEPS:
                    return
                last = day
                yield day


def steps(cron: Cron, start: date, end: date) -> int:
    """From day to day, and from a day that would fit in a month that is not named to the next month."""
    day, count = start, 0
    while day < end:
        is_month_over = day.month not in cron.months and cron.names_in_its_month(day)
        day = (day.replace(day=1) + timedelta(days=32)).replace(day=1) if is_month_over else day + ONE_DAY
        count += 1
    return count


def named_months(cron: Cron, start: date) -> Iterator[date]:
    """The first days of the named months, from the month of `start` on."""
    pattern = f"0 0 1 {','.join(map(str, sorted(set(cron.months))))} *"
    first = first_months(pattern, start.replace(day=1))
    yield from first
    yield from walk(pattern, first[-1] + ONE_DAY)


@lru_cache(maxsize=4096)
def first_months(pattern: str, start: date) -> tuple[date, ...]:
    """Most expressions share their pattern of months, and croniter takes longer to read one than to walk it."""
    return tuple(islice(walk(pattern, start), CACHED_MONTHS))


def walk(pattern: str, start: date) -> Iterator[date]:
    before = datetime.combine(start, time()) - ONE_DAY
    return (found.date() for found in croniter(pattern, before).all_next(datetime))
