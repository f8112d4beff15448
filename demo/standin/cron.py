"""Which cron expressions the real server accepts, refuses or fails on, and when they fire.

The server uses cron-parser 4.9 to validate an expression and to compute its times, and cronstrue to describe it. It
fails with a 500 on an expression that only cron-parser can read, and on one that never fires. This module shares no
code with tasks.cron, because a stand-in that shares the code under test hides its faults. Tests compare it with
recordings.
"""

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby, islice, takewhile
from zoneinfo import ZoneInfo

from cron_descriptor import FormatError, Options, get_description
from croniter import croniter

MACROS = ("@yearly", "@monthly", "@weekly", "@daily", "@hourly")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# The number of values of `*`, which is 0-7.
EVERY_WEEKDAY = 8
# White space in JavaScript. Python's \s lacks the last of these and has five others.
SPACES = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
# cron-parser gives up after 10,000 steps, which are days where no day matches.
LONGEST_GAP = timedelta(days=10_000)
# Antarctica/Troll sets its clocks back by two hours, the other zones by less.
MAX_TIMES_PER_DAY = 26 * 60
DESCRIPTION_OPTIONS = Options()
DESCRIPTION_OPTIONS.locale_code, DESCRIPTION_OPTIONS.use_24hour_time_format = "en_US", False


class InvalidCronError(ValueError):
    """cron-parser refuses the expression. The message is that of cron-parser."""


class BrokenCronError(ValueError):
    """The server answers 500 to the expression, instead of a 422 that refuses it."""


@dataclass(frozen=True)
class Field:
    minimum: int
    maximum: int
    characters: str = r"[,*\d/-]+"
    names: tuple[str, ...] = ()

    def checked(self, value: int) -> int:
        if not self.minimum <= value <= self.maximum:
            raise self.out_of_range(str(value))
        return value

    def out_of_range(self, value: str) -> InvalidCronError:
        return InvalidCronError(f"Constraint error, got value {value} expected range {self.minimum}-{self.maximum}")


MINUTE, HOUR = Field(0, 59), Field(0, 23)
DAY = Field(1, 31, r"[?,*\dL/-]+")
MONTH = Field(1, 12, names=MONTHS)
WEEKDAY = Field(0, 7, r"[?,*\dL#/-]+", WEEKDAYS)
FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True)
class Values:
    """The values of a field. Repeated numbers count, because cron-parser detects a restricted field by their number."""

    numbers: tuple[int, ...]
    lasts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers) + len(self.lasts)


@dataclass(frozen=True)
class Cron:
    minutes: Values
    hours: Values
    days: Values
    months: Values
    weekdays: Values
    occurrence: int | None


def check(expression: str, *, at: datetime) -> None:
    """Raises InvalidCronError if the server answers 422, and BrokenCronError if it answers 500 and stores nothing.

    `at` is where the search for the first time starts.
    """
    if expression in MACROS:
        raise BrokenCronError(expression)
    cron = parse(expression)
    if not is_describable(expression) or not (leaves_broken_schedule(expression) or ever_fires(cron, at=at)):
        raise BrokenCronError(expression)


def leaves_broken_schedule(expression: str) -> bool:
    """Whether the server stores a schedule that it cannot read. For expressions that passed `check`.

    cronstrue describes a bare `L` as Saturday, so the server stores the schedule before cron-parser fails on it.
    """
    return fields_of(expression)[-1] == "L"


def next_times(expression: str, timezone: str, *, after: datetime, count: int = 10) -> list[datetime]:
    """The next times after `after` (aware), in UTC. Empty for an expression that never fires.

    Raises InvalidCronError.
    """
    return list(islice(times(parse(expression), ZoneInfo(timezone), after=after.astimezone(UTC)), count))


@lru_cache(maxsize=4096)
def describe(expression: str) -> str:
    """The expression in English, or the expression itself where cron-descriptor cannot describe it."""
    try:
        return get_description(" ".join(fields_of(expression)), DESCRIPTION_OPTIONS)
    except FormatError:
        return expression


# --- The grammar of cron-parser --------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def parse(expression: str) -> Cron:
    if len(expression.split(" ")) > 5:
        raise InvalidCronError("CRON expressions with seconds are not allowed")
    fields = fields_of(expression)
    if not 1 <= len(fields) <= 5:
        raise InvalidCronError("Invalid cron expression")
    # With fewer than five fields, the leading fields are missing.
    *others, weekday = ["*"] * (5 - len(fields)) + fields
    weekday, occurrence = without_occurrence(weekday)
    minute, hour, day, month, weekdays = map(values, (*others, weekday), FIELDS)
    return Cron(minute, hour, within_month(day, month), month, weekdays, occurrence)


def fields_of(expression: str) -> list[str]:
    return [field for field in re.split(f"[{SPACES}]+", expression) if field]


def without_occurrence(weekday: str) -> tuple[str, int | None]:
    """`1#2`, the second Monday of the month, as (`1`, 2)."""
    day, hash_, occurrence = weekday.partition("#")
    if not hash_:
        return weekday, None
    if re.search("[,/-]", weekday):
        raise InvalidCronError("Constraint error, invalid dayOfWeek `#` and `,`, `/`, `-` are incompatible")
    if not re.fullmatch("0*[1-5]", occurrence):
        raise InvalidCronError("Constraint error, invalid dayOfWeek occurrence number (#)")
    return day, int(occurrence)


def values(text: str, field: Field) -> Values:
    numbers: list[int] = []
    lasts: list[str] = []
    for atom in expand_names_and_wildcards(text, field).split(","):
        first, *steps = atom.split("/")
        if not atom:
            raise InvalidCronError("Invalid list value format")
        if len(steps) > 1:
            raise InvalidCronError(f"Invalid repeat: {atom}")
        if "L" in first and "-" not in first:
            lasts.append(first)
        else:
            numbers += step_values(first, steps[0], field) if steps else single_or_range_values(first, field)
    return Values(tuple(sorted(numbers)), tuple(lasts))


def expand_names_and_wildcards(text: str, field: Field) -> str:
    """Replaces names by numbers, and `*` and `?` by ranges."""

    def number_of_name(match: re.Match[str]) -> str:
        name = match[0].lower()
        if name not in field.names:
            raise InvalidCronError(f'Validation error, cannot resolve alias "{name}"')
        return str(field.names.index(name) + field.minimum)

    if field.names:
        text = re.sub("[a-zA-Z]{3}", number_of_name, text)
    if not re.fullmatch(field.characters, text, re.ASCII):
        raise InvalidCronError(f"Invalid characters, got value: {text}")
    # With both `*` and `?`, cron-parser replaces only `*`, and the `?` is then an invalid number.
    return text.replace("*" if "*" in text else "?", f"{field.minimum}-{field.maximum}")


def step_values(first: str, step: str, field: Field) -> list[int]:
    """`5/15` runs to the end of the field."""
    whole = f"{first}-{field.maximum}" if first.isdecimal() else first
    if not whole[:1].isdecimal():
        raise field.out_of_range("NaN")
    return range_values(whole, step, field)


def single_or_range_values(text: str, field: Field) -> list[int]:
    if "-" in text and text[0] != "-":
        return range_values(text, "1", field)
    if text == "-":
        raise InvalidCronError(f"Invalid range: {text}")
    # -0 is 0 in JavaScript too.
    value = field.checked(-parse_number(text[1:], field) if text[0] == "-" else parse_number(text, field))
    return [value % 7 if field is WEEKDAY else value]


def range_values(text: str, step_text: str, field: Field) -> list[int]:
    """The last number of `1-2-3` is ignored. A weekday range that ends at 7 also contains 0, Sunday."""
    low, high = (field.checked(parse_number(part, field)) for part in text.split("-")[:2])
    step = parse_number(step_text, field)
    if low > high:
        raise InvalidCronError(f"Invalid range: {text}")
    if step == 0:
        raise InvalidCronError("Constraint error, cannot repeat at every 0 time.")
    found = list(range(low, high + 1, step))
    return [0, *found] if field is WEEKDAY and high % 7 == 0 and low > 0 else found


def parse_number(text: str, field: Field) -> int:
    """JavaScript reads an empty text as 0. Nine digits are enough to be out of range."""
    if text and not re.fullmatch(r"\d+", text, re.ASCII):
        raise field.out_of_range("NaN")
    return int(text.lstrip("0")[:9] or "0")


def within_month(days: Values, months: Values) -> Values:
    """With a single month, cron-parser removes the days after its end, and each `L` with a number."""
    if len(months) != 1:
        return days
    length = LONGEST_MONTHS[months.numbers[0] - 1]
    if days.numbers and days.numbers[0] > length:
        raise InvalidCronError("Invalid explicit day of month definition")
    kept = tuple(day for day in days.numbers if day <= length)
    return Values(kept, tuple(last for last in days.lasts if last == "L"))


# --- Expressions that cronstrue cannot describe ----------------------------------------------------------------------


def is_describable(expression: str) -> bool:
    """Whether cronstrue describes an expression that cron-parser can read. It splits at spaces only."""
    parts = re.split(" +", expression.strip(SPACES))
    return len(parts) == 5 and has_describable_days(parts[2]) and has_describable_weekdays(parts[4])


def has_describable_days(text: str) -> bool:
    """cronstrue checks the number before an `L`, which cron-parser ignores."""
    return all(day is None or 1 <= day <= 31 for day in leading_numbers(text))


def has_describable_weekdays(text: str) -> bool:
    """To cronstrue, 7 is Sunday but 07 is invalid."""
    return all(day is None or day <= 6 for day in leading_numbers(re.sub("(^|,)7", r"\g<1>0", text)))


def leading_numbers(text: str) -> list[int | None]:
    found = (re.match(r"\d+", atom, re.ASCII) for atom in text.split(","))
    return [int(match[0].lstrip("0")[:9] or "0") if match else None for match in found]


# --- Times -----------------------------------------------------------------------------------------------------------


def ever_fires(cron: Cron, *, at: datetime) -> bool:
    """cron-parser fails on an `L` without a weekday when it looks for a time, unless the numbers match every day."""
    has_every_weekday = {day % 7 for day in cron.weekdays.numbers} == set(range(7))
    if not has_every_weekday and not all(last[0].isdecimal() for last in cron.weekdays.lasts):
        return False
    return next(days(cron, start=at.date()), None) is not None


def times(cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    clock = f"{comma_separated(cron.minutes.numbers)} {comma_separated(cron.hours.numbers)} * * *"
    for day in days(cron, start=after.astimezone(zone).date()):
        yield from times_of_day(clock, day, zone, after=after)


def times_of_day(clock: str, day: date, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    midnight = datetime.combine(day, time(), zone).astimezone(UTC)
    start = max(after, midnight - timedelta(seconds=1)).astimezone(zone)
    found = islice(croniter(clock, start).all_next(datetime), MAX_TIMES_PER_DAY)
    for local in takewhile(lambda local: local.date() <= day, found):
        # At a daylight saving change, croniter may return the start itself.
        if (instant := local.astimezone(UTC)) > after:
            yield instant


def days(cron: Cron, *, start: date) -> Iterator[date]:
    """The matching days from `start` on, until a gap that is too long for cron-parser."""
    last = start
    for day, _ in groupby(heapq.merge(*(matching_dates(pattern, start=start) for pattern in day_patterns(cron)))):
        if day - last > LONGEST_GAP:
            return
        if cron.occurrence in (None, (day.day + 6) // 7):
            last = day
            yield day


def matching_dates(pattern: str, *, start: date) -> Iterator[date]:
    before = datetime.combine(start, time()) - timedelta(days=1)
    years = LONGEST_GAP.days // 365 + 1
    return (found.date() for found in croniter(pattern, before, max_years_between_matches=years).all_next(datetime))


def day_patterns(cron: Cron) -> Iterator[str]:
    """Patterns for croniter that together match the days. If both day fields are restricted, either may match."""
    every_weekday = len(cron.weekdays) == EVERY_WEEKDAY
    restricted = [month for month in cron.months.numbers if len(cron.days) < LONGEST_MONTHS[month - 1]]
    by_day = comma_separated(cron.months.numbers if every_weekday else restricted)
    if by_day and cron.days.numbers:
        yield f"0 0 {comma_separated(cron.days.numbers)} {by_day} *"
    if by_day and cron.days.lasts:
        yield f"0 0 L {by_day} *"
    if not every_weekday:
        yield from weekday_patterns(cron)


def weekday_patterns(cron: Cron) -> Iterator[str]:
    """`5L` is `L5` in croniter. cron-parser reads only one digit."""
    months = comma_separated(cron.months.numbers)
    if cron.weekdays.numbers:
        yield f"0 0 * {months} {comma_separated(day % 7 for day in cron.weekdays.numbers)}"
    for day in sorted({int(last[0]) % 7 for last in cron.weekdays.lasts if last[0].isdecimal()}):
        yield f"0 0 * {months} L{day}"


def comma_separated(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in sorted(set(numbers)))
