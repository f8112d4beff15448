"""Which cron expressions the real server accepts, refuses or breaks on, and when they fire.

The server asks cron-parser 4.9 whether an expression is valid and when it fires, and cronstrue to describe it. It
breaks on an expression that only cron-parser can read, and on one that never fires. This grammar shares nothing with
tasks.cron, because a stand-in that shares the code under test hides its faults. The recorded verdicts are its proof.
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
# By count: `*` is 0-7.
EVERY_WEEKDAY = 8
# White space in JavaScript. Python's \s lacks the last of these and has five others.
SPACES = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
# cron-parser gives up after 10,000 steps, which are days where no day matches.
LONGEST_WAIT = timedelta(days=10_000)
# Antarctica/Troll sets its clocks back by two hours, the other zones by less.
MOST_TIMES_IN_A_DAY = 26 * 60
WORDS = Options()
WORDS.locale_code, WORDS.use_24hour_time_format = "en_US", False


class InvalidCronError(ValueError):
    """cron-parser refuses the expression. The message is that of cron-parser."""


class BrokenCronError(ValueError):
    """The server fails on an expression that it did not refuse."""


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
    """The values of a field. Repeated numbers count: by their count cron-parser tells whether a field is restricted."""

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
    """Raises InvalidCronError for an answer 422, and BrokenCronError for an answer 500 that leaves no schedule.

    `at` is where the search for a first time starts.
    """
    if expression in MACROS:
        raise BrokenCronError(expression)
    cron = parse(expression)
    if not is_describable(expression) or not (leaves_broken_schedule(expression) or ever_fires(cron, at=at)):
        raise BrokenCronError(expression)


def leaves_broken_schedule(expression: str) -> bool:
    """For an expression that passed `check`.

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
    """The expression in English, or the expression itself where cron-descriptor has no words for it."""
    try:
        return get_description(" ".join(fields_of(expression)), WORDS)
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
    # Of fewer than five fields, the first are missing.
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
    for atom in spelled_out(text, field).split(","):
        first, *steps = atom.split("/")
        if not atom:
            raise InvalidCronError("Invalid list value format")
        if len(steps) > 1:
            raise InvalidCronError(f"Invalid repeat: {atom}")
        if "L" in first and "-" not in first:
            lasts.append(first)
        else:
            numbers += stepped(first, steps[0], field) if steps else plain(first, field)
    return Values(tuple(sorted(numbers)), tuple(lasts))


def spelled_out(text: str, field: Field) -> str:
    """The field with numbers for its names, and with ranges for `*` and `?`."""

    def number_of_name(match: re.Match[str]) -> str:
        name = match[0].lower()
        if name not in field.names:
            raise InvalidCronError(f'Validation error, cannot resolve alias "{name}"')
        return str(field.names.index(name) + field.minimum)

    if field.names:
        text = re.sub("[a-zA-Z]{3}", number_of_name, text)
    if not re.fullmatch(field.characters, text, re.ASCII):
        raise InvalidCronError(f"Invalid characters, got value: {text}")
    # A `?` beside a `*` stays and is no number: cron-parser replaces one of the two.
    return text.replace("*" if "*" in text else "?", f"{field.minimum}-{field.maximum}")


def stepped(first: str, step: str, field: Field) -> list[int]:
    """`5/15` runs to the end of the field."""
    whole = f"{first}-{field.maximum}" if first.isdecimal() else first
    if not whole[:1].isdecimal():
        raise field.out_of_range("NaN")
    return ranged(whole, step, field)


def plain(text: str, field: Field) -> list[int]:
    if "-" in text and text[0] != "-":
        return ranged(text, "1", field)
    if text == "-":
        raise InvalidCronError(f"Invalid range: {text}")
    # -0 is 0 in JavaScript too.
    value = field.checked(-number(text[1:], field) if text[0] == "-" else number(text, field))
    return [value % 7 if field is WEEKDAY else value]


def ranged(text: str, step_text: str, field: Field) -> list[int]:
    """Of `1-2-3` the last number is ignored. A range of weekdays that ends at 7 also names Sunday as 0."""
    low, high = (field.checked(number(part, field)) for part in text.split("-")[:2])
    step = number(step_text, field)
    if low > high:
        raise InvalidCronError(f"Invalid range: {text}")
    if step == 0:
        raise InvalidCronError("Constraint error, cannot repeat at every 0 time.")
    found = list(range(low, high + 1, step))
    return [0, *found] if field is WEEKDAY and high % 7 == 0 and low > 0 else found


def number(text: str, field: Field) -> int:
    """JavaScript reads an empty text as 0. Nine digits are enough to be out of range."""
    if text and not re.fullmatch(r"\d+", text, re.ASCII):
        raise field.out_of_range("NaN")
    return int(text.lstrip("0")[:9] or "0")


def within_month(days: Values, months: Values) -> Values:
    """With a single month, cron-parser drops the days beyond its end, and each `L` with a number."""
    if len(months) != 1:
        return days
    length = LONGEST_MONTHS[months.numbers[0] - 1]
    if days.numbers and days.numbers[0] > length:
        raise InvalidCronError("Invalid explicit day of month definition")
    kept = tuple(day for day in days.numbers if day <= length)
    return Values(kept, tuple(last for last in days.lasts if last == "L"))


# --- What cronstrue cannot describe ----------------------------------------------------------------------------------


def is_describable(expression: str) -> bool:
    """Whether cronstrue describes an expression that cron-parser can read. It splits at spaces only."""
    parts = re.split(" +", expression.strip(SPACES))
    return len(parts) == 5 and has_describable_days(parts[2]) and has_describable_weekdays(parts[4])


def has_describable_days(text: str) -> bool:
    """cronstrue looks at the number before an `L`, which cron-parser ignores."""
    return all(day is None or 1 <= day <= 31 for day in leading_numbers(text))


def has_describable_weekdays(text: str) -> bool:
    """7 is Sunday and 07 is not."""
    return all(day is None or day <= 6 for day in leading_numbers(re.sub("(^|,)7", r"\g<1>0", text)))


def leading_numbers(text: str) -> list[int | None]:
    found = (re.match(r"\d+", atom, re.ASCII) for atom in text.split(","))
    return [int(match[0].lstrip("0")[:9] or "0") if match else None for match in found]


# --- When it fires ---------------------------------------------------------------------------------------------------


def ever_fires(cron: Cron, *, at: datetime) -> bool:
    """cron-parser fails on an `L` without a weekday when it looks for a time, unless the numbers match every day."""
    has_every_weekday = {day % 7 for day in cron.weekdays.numbers} == set(range(7))
    if not has_every_weekday and not all(last[0].isdecimal() for last in cron.weekdays.lasts):
        return False
    return next(days(cron, start=at.date()), None) is not None


def times(cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    clock = f"{listed(cron.minutes.numbers)} {listed(cron.hours.numbers)} * * *"
    for day in days(cron, start=after.astimezone(zone).date()):
        yield from times_of_day(clock, day, zone, after=after)


def times_of_day(clock: str, day: date, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    midnight = datetime.combine(day, time(), zone).astimezone(UTC)
    start = max(after, midnight - timedelta(seconds=1)).astimezone(zone)
    found = islice(croniter(clock, start).all_next(datetime), MOST_TIMES_IN_A_DAY)
    for local in takewhile(lambda local: local.date() <= day, found):
        # croniter may answer with the start itself where the clocks change.
        if (instant := local.astimezone(UTC)) > after:
            yield instant


def days(cron: Cron, *, start: date) -> Iterator[date]:
    """The days from `start` on, as far apart as cron-parser would look for the next."""
    last = start
    for day, _ in groupby(heapq.merge(*(walk(pattern, start=start) for pattern in day_patterns(cron)))):
        if day - last > LONGEST_WAIT:
            return
        if cron.occurrence in (None, (day.day + 6) // 7):
            last = day
            yield day


def walk(pattern: str, *, start: date) -> Iterator[date]:
    before = datetime.combine(start, time()) - timedelta(days=1)
    years = LONGEST_WAIT.days // 365 + 1
    return (found.date() for found in croniter(pattern, before, max_years_between_matches=years).all_next(datetime))


def day_patterns(cron: Cron) -> Iterator[str]:
    """Patterns for croniter that together name the days. Where both day fields are restricted, either may match."""
    every_weekday = len(cron.weekdays) == EVERY_WEEKDAY
    restricted = [month for month in cron.months.numbers if len(cron.days) < LONGEST_MONTHS[month - 1]]
    by_day = listed(cron.months.numbers if every_weekday else restricted)
    if by_day and cron.days.numbers:
        yield f"0 0 {listed(cron.days.numbers)} {by_day} *"
    if by_day and cron.days.lasts:
        yield f"0 0 L {by_day} *"
    if not every_weekday:
        yield from weekday_patterns(cron)


def weekday_patterns(cron: Cron) -> Iterator[str]:
    """`5L` is `L5` in croniter. cron-parser reads one digit of it."""
    months = listed(cron.months.numbers)
    if cron.weekdays.numbers:
        yield f"0 0 * {months} {listed(day % 7 for day in cron.weekdays.numbers)}"
    for day in sorted({int(last[0]) % 7 for last in cron.weekdays.lasts if last[0].isdecimal()}):
        yield f"0 0 * {months} L{day}"


def listed(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in sorted(set(numbers)))
