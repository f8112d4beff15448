"""Cron expressions as Trigger.dev reads them: whether one is valid, what it means, and when it fires next.

Trigger.dev asks cron-parser 4.9 for one time after another. croniter accepts more (`@daily`, six fields, `15W`),
combines the day fields differently and treats clock changes differently. So croniter only walks the calendar days here;
the grammar and the times of day are ours. tests/data/cron-oracle.jsonl is the proof. Time is an argument.
"""

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property, lru_cache
from itertools import groupby, islice, product
from zoneinfo import ZoneInfo

from cron_descriptor import FormatError, Options, get_description
from croniter import croniter

from tasks.cron import zones

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
MAX_LENGTH = 200
# The words of Trigger.dev's own screens.
WORDS = Options()
WORDS.locale_code, WORDS.use_24hour_time_format = "en_US", False


class CronError(ValueError):
    """The message says what is wrong, for the person who wrote the expression."""


@dataclass(frozen=True)
class Field:
    name: str
    minimum: int
    maximum: int
    characters: str
    names: tuple[str, ...] = ()


MINUTE = Field("minute", 0, 59, r"[,*\d/-]+")
HOUR = Field("hour", 0, 23, r"[,*\d/-]+")
DAY = Field("day of month", 1, 31, r"[?,*\dL/-]+")
MONTH = Field("month", 1, 12, r"[,*\d/-]+", MONTHS)
WEEKDAY = Field("weekday", 0, 7, r"[?,*\dL#/-]+", WEEKDAYS)
FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True)
class Cron:
    """An expression in numbers. Repeated values are kept: how many there are decides whether a field is restricted."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    last_day: bool
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    last_weekdays: tuple[int, ...]
    occurrence: int | None

    @cached_property
    def clock_times(self) -> list[tuple[int, int]]:
        """(hour, minute), in order and each once."""
        return list(product(dict.fromkeys(self.hours), dict.fromkeys(self.minutes)))

    @property
    def names_hours(self) -> bool:
        return len(self.hours) != 24

    @property
    def names_weekdays(self) -> bool:
        return len(self.weekdays) + len(self.last_weekdays) != 8

    def names_days_in(self, month: int) -> bool:
        return len(self.days) + self.last_day < DAYS_IN_MONTH[month - 1]


@lru_cache(maxsize=4096)
def parse(expression: str) -> Cron:
    """The expression in numbers; raises CronError naming the field that is wrong."""
    parts = expression.split(" ")
    if len(expression) > MAX_LENGTH or len(parts) != 5 or not all(parts):
        raise CronError(
            "A cron expression has five fields with one space between them: "
            "minute, hour, day of month, month, weekday. For example: 0 9 * * 1-5"
        )
    minute, hour, day, month, weekday = (numbered(part, field) for part, field in zip(parts, FIELDS, strict=True))
    weekday, occurrence = without_occurrence(weekday)
    months = plain_values(month, MONTH)
    return Cron(
        minutes=plain_values(minute, MINUTE),
        hours=plain_values(hour, HOUR),
        days=days_within(months, plain_values(day, DAY, lasts="L")),
        last_day="L" in day.split(","),
        months=months,
        weekdays=plain_values(weekday, WEEKDAY, lasts="0L 1L 2L 3L 4L 5L 6L 7L"),
        last_weekdays=tuple(int(atom[0]) % 7 for atom in weekday.split(",") if atom.endswith("L")),
        occurrence=occurrence,
    )


def numbered(text: str, field: Field) -> str:
    """The field with its names (`MON`, `jan`) replaced by numbers, and made only of characters that it may have."""

    def number(match: re.Match[str]) -> str:
        name = match[0].lower()
        if name not in field.names:
            raise CronError(f"The {field.name} cannot be {text!r}.")
        return str(field.names.index(name) + field.minimum)

    replaced = re.sub("[a-z]{3}", number, text, flags=re.IGNORECASE | re.ASCII) if field.names else text
    if not re.fullmatch(field.characters, replaced.removesuffix("\n"), re.ASCII):
        raise CronError(f"The {field.name} cannot be {text!r}.")
    return replaced.removesuffix("\n")


def without_occurrence(weekday: str) -> tuple[str, int | None]:
    """`1#2`, the second Monday of the month, as (`1`, 2)."""
    if "#" not in weekday:
        return weekday, None
    match = re.fullmatch(r"([0-7*?]L?)#([1-5])", weekday)
    if match is None:
        raise CronError(f"The weekday cannot be {weekday!r}: write weekday#occurrence, with 1 to 5 as the occurrence.")
    return match[1], int(match[2])


def plain_values(text: str, field: Field, *, lasts: str = "") -> tuple[int, ...]:
    atoms = [atom for atom in text.split(",") if atom not in lasts.split(" ")]
    return tuple(sorted(value for atom in atoms for value in atom_values(atom, field)))


def atom_values(atom: str, field: Field) -> list[int]:
    """The numbers of `5`, `1-5`, `*/15`, `5/15`; a range of weekdays that ends at 7 also names Sunday as 0."""
    match = re.fullmatch(r"(?:(\d+)(?:-(\d+))?|[*?])(?:/(\d+))?", atom, re.ASCII)
    if match is None:
        raise CronError(f"The {field.name} cannot hold {atom!r}.")
    first, last, step = (int(group) if group else None for group in match.groups())
    if first is not None and last is None and step is None:
        return [within(first, field) % 7 if field is WEEKDAY else within(first, field)]
    low = within(field.minimum if first is None else first, field)
    high = within(field.maximum if last is None else last, field)
    if low > high or step == 0:
        raise CronError(f"The {field.name} cannot hold {atom!r}.")
    values = list(range(low, high + 1, step or 1))
    if field is WEEKDAY and high % 7 == 0 and 0 not in values:
        values.insert(0, 0)
    return values


def within(value: int, field: Field) -> int:
    if not field.minimum <= value <= field.maximum:
        raise CronError(f"The {field.name} must be from {field.minimum} to {field.maximum}, not {value}.")
    return value


def days_within(months: tuple[int, ...], days: tuple[int, ...]) -> tuple[int, ...]:
    """A single named month has only its own days; Trigger.dev refuses a first day beyond them."""
    if len(months) != 1 or not days:
        return days
    length = DAYS_IN_MONTH[months[0] - 1]
    if days[0] > length:
        raise CronError(f"The month {months[0]} has no day {days[0]}.")
    return tuple(day for day in days if day <= length)


@lru_cache(maxsize=4096)
def describe(expression: str) -> str:
    """The expression in English. Raises CronError.

    Returns the expression itself where cron-descriptor has no words for it, for example `0 *,* * * *`.
    """
    parse(expression)
    try:
        return get_description(expression.strip(), WORDS)
    except FormatError:
        return expression


# --- Fire times -----------------------------------------------------------------------------------------------------


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
