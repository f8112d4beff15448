"""The grammar of cron as Trigger.dev reads it: whether an expression is valid, and which days and hours it names. Pure.

Trigger.dev reads an expression with cron-parser 4.9 and describes it with cronstrue; it refuses what the first cannot
read, and answers 500 to what the second cannot. croniter's grammar is another one (`@daily`, six fields, `15W`), so
this one is ours. tests/data/cron-verdicts.jsonl is the proof.
"""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property, lru_cache
from itertools import product

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
MAX_LENGTH = 200
# `*` in the weekday is 0-7.
EVERY_WEEKDAY = 8


class CronError(ValueError):
    """The message says what is wrong, for the person who wrote the expression."""


@dataclass(frozen=True)
class Field:
    name: str
    minimum: int
    maximum: int
    characters: str = r"[,*\d/-]+"
    names: tuple[str, ...] = ()

    # The number that an atom may begin with, also before an `L`. What Trigger.dev cannot describe breaks it.
    leading: str = r"\d*"

    def within(self, text: str, atom: str) -> int:
        if not re.fullmatch(r"\d+", text, re.ASCII):
            raise CronError(f"The {self.name} cannot hold {atom!r}.")
        if not self.minimum <= int(text) <= self.maximum:
            raise CronError(f"The {self.name} must be from {self.minimum} to {self.maximum}, not {int(text)}.")
        return int(text)


MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of month", 1, 31, r"[?,*\dL/-]+", leading=r"|0*([1-9]|[12]\d|3[01])")
MONTH = Field("month", 1, 12, names=MONTHS, leading=r"|0*([1-9]|1[0-2])")
WEEKDAY = Field("weekday", 0, 7, r"[?,*\dL#/-]+", WEEKDAYS, leading="|0*[0-6]|7")
FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True)
class Cron:
    """An expression in numbers. Repeated values are kept: how many there are decides whether a field is restricted."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    last_days: int  # how many atoms name the last day of the month
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
        return len(self.weekdays) + len(self.last_weekdays) != EVERY_WEEKDAY

    def names_days_in(self, month: int) -> bool:
        return len(self.days) + self.last_days < DAYS_IN_MONTH[month - 1]

    def names(self, day: date) -> bool:
        return day.month in self.months and self.names_in_its_month(day)

    def names_in_its_month(self, day: date) -> bool:
        """Whatever the month. Both day fields restricted: either may match. `#` is a condition of its own."""
        if self.occurrence not in (None, (day.day + 6) // 7):
            return False
        is_day = day.day in self.days or (self.last_days > 0 and day.day == monthrange(day.year, day.month)[1])
        if not self.names_weekdays:
            return is_day
        is_weekday = self._names_weekday_of(day)
        return is_weekday or (is_day and self.names_days_in(day.month))

    def _names_weekday_of(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if weekday in self.weekdays:
            return True
        return weekday in self.last_weekdays and (day + timedelta(days=7)).month != day.month


@lru_cache(maxsize=4096)
def parse(expression: str) -> Cron:
    """The expression in numbers; raises CronError naming the field that is wrong."""
    parts = expression.removesuffix("\n").split(" ")
    if len(expression) > MAX_LENGTH or len(parts) != 5 or not all(parts):
        count = len(expression.split())
        found = f"{count}" if count != 5 else "other white space"
        if len(expression) > MAX_LENGTH:
            found = f"{len(expression)} characters, of at most {MAX_LENGTH}"
        raise CronError(
            f"A cron expression has five fields with one space between them, and this one has {found}: "
            "minute, hour, day of month, month, weekday. For example: 0 9 * * 1-5"
        )
    *others, weekday = parts
    weekday, occurrence = without_occurrence(weekday)
    minute, hour, day, month, weekday = map(in_numbers, (*others, weekday), FIELDS)
    weekdays, lasts = values(weekday, WEEKDAY)
    months, _ = values(month, MONTH)
    days, last_days = days_within(months, *values(day, DAY))
    return Cron(
        minutes=values(minute, MINUTE)[0],
        hours=values(hour, HOUR)[0],
        days=days,
        last_days=last_days,
        months=months,
        weekdays=weekdays,
        last_weekdays=last_weekdays(weekdays, lasts),
        occurrence=occurrence,
    )


def without_occurrence(weekday: str) -> tuple[str, int | None]:
    """`1#2`, the second Monday of the month, as (`1`, 2)."""
    if "#" not in weekday:
        return weekday, None
    match = re.fullmatch(r"([^#,/-]+)#0*([1-5])", weekday)
    if match is None:
        raise CronError(f"The weekday cannot be {weekday!r}: write weekday#occurrence, with 1 to 5 as the occurrence.")
    return match[1], int(match[2])


def in_numbers(text: str, field: Field) -> str:
    """The field with its names (`MON`, `jan`) replaced by numbers, and made only of characters that it may have."""

    def number(match: re.Match[str]) -> str:
        name = match[0].lower()
        if name not in field.names:
            raise CronError(f"The {field.name} cannot be {text!r}.")
        return str(field.names.index(name) + field.minimum)

    replaced = re.sub("[a-zA-Z]{3}", number, text) if field.names else text
    if not re.fullmatch(field.characters, replaced, re.ASCII):
        raise CronError(f"The {field.name} cannot be {text!r}.")
    return replaced


def values(text: str, field: Field) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The numbers of a field in order, and its atoms that hold an `L`."""
    wildcard = "*" if "*" in text else "?"
    numbers, lasts = list[int](), list[str]()
    for atom in text.split(","):
        first, slash, step = atom.partition("/")
        leading = first[: len(first) - len(first.lstrip("0123456789"))]
        if not atom:
            raise CronError(f"The {field.name} cannot be {text!r}: a value is missing beside a comma.")
        if "/" in step:
            raise CronError(f"The {field.name} cannot hold {atom!r}.")
        whole = f"{first}-{field.maximum}" if slash and first == leading else first
        whole = whole.replace(wildcard, f"{field.minimum}-{field.maximum}")
        if "L" in whole and "-" not in whole:
            lasts.append(whole)  # its step means nothing
        elif re.fullmatch("-0+", atom):
            numbers.append(field.within("0", atom))
        else:
            numbers += range_values(whole, step if slash else "1", field, atom)
        if not re.fullmatch(field.leading, leading):
            raise CronError(f"The {field.name} cannot hold {atom!r}.")
    return tuple(sorted(numbers)), tuple(lasts)


def range_values(text: str, step: str, field: Field, atom: str) -> list[int]:
    """The numbers of `5` and of `1-5`; as Trigger.dev does, `1-2-3` is read as `1-2`, and `0-` as `0-0`."""
    low, *others = text.split("-")
    first = field.within(low, atom)
    if not others:
        return [first % 7 if field is WEEKDAY else first]
    last = field.within(others[0] or "0", atom)
    if first > last or not re.fullmatch("0*[1-9][0-9]*", step):
        raise CronError(f"The {field.name} cannot hold {atom!r}.")
    found = list(range(first, last + 1, int(step)))
    # A range of weekdays that ends at 7 also names Sunday as 0.
    return [0, *found] if field is WEEKDAY and last % 7 == 0 and first > 0 else found


def days_within(months: tuple[int, ...], days: tuple[int, ...], lasts: tuple[str, ...]) -> tuple[tuple[int, ...], int]:
    """A single named month has only its own days and the plain `L`; a first day beyond them is refused."""
    if len(months) != 1:
        return days, len(lasts)
    length = DAYS_IN_MONTH[months[0] - 1]
    if days and days[0] > length:
        raise CronError(f"The month {months[0]} has no day {days[0]}.")
    return tuple(day for day in days if day <= length), lasts.count("L")


def last_weekdays(weekdays: tuple[int, ...], lasts: tuple[str, ...]) -> tuple[int, ...]:
    """`5L`, the last Friday of the month, as 5. An `L` without a weekday breaks Trigger.dev when it is looked at."""
    is_never_looked_at = {weekday % 7 for weekday in weekdays} == set(range(7))
    for last in lasts:
        if not last[0].isdigit() and not is_never_looked_at:
            raise CronError(f"The weekday cannot hold {last!r}: write the weekday before it, for example 5L.")
    return tuple(int(last[0]) % 7 if last[0].isdigit() else 0 for last in lasts)
