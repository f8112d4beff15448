"""What an expression says in English. Words that would not be true are left out.

cron-descriptor reads the text, not what it means: `*/99` is "every 99 minutes", `0 9-17/3` ends at 05:59 PM. So it gets
the times themselves, written in the few forms for which its words are true.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from cron_descriptor import Options, get_description

from tasks.cron.expressions import DAY, HOUR, MINUTE, MONTH, Cron, Field, parse

# More values than this are no sentence.
MAX_LISTED = 12

with warnings.catch_warnings(action="ignore"):  # of a system without a locale; the next line sets one
    OPTIONS = Options()
# The words of Trigger.dev's own screens.
OPTIONS.locale_code, OPTIONS.use_24hour_time_format = "en_US", False


@lru_cache(maxsize=4096)
def describe(expression: str) -> str:
    """The expression in English, or the expression itself where no true words are known. Raises CronError."""
    plain = plain_expression(parse(expression))
    return expression if plain is None else get_description(plain, OPTIONS)


def plain_expression(cron: Cron) -> str | None:
    """An expression with the same times for which cron-descriptor's words are true. None: there is none."""
    hours, months, days = text(cron.hours, HOUR), text(cron.months, MONTH), plain_days(cron)
    is_list_of_hours = hours is None or "/" in hours or "," in hours
    # "Every 15 minutes, at 09:00 AM and 12:00 PM" would not be true; "at 0 and 15 minutes past the hour" is.
    minutes = listed(cron.minutes) if is_list_of_hours else text(cron.minutes, MINUTE)
    if minutes is None or hours is None or months is None or days is None:
        return None
    return f"{minutes} {hours} {days[0]} {months} {days[1]}"


def text(values: Sequence[int], field: Field) -> str | None:
    """`*`, `9-17`, `5/15` for steps that go on from hour to hour or from day to day, or a list."""
    found = sorted(set(values))
    size = field.maximum - field.minimum + 1
    steps = {later - earlier for earlier, later in pairwise(found)}
    if len(found) == size:
        return "*"
    if steps == {1} and len(found) > 2:
        return f"{found[0]}-{found[-1]}"
    if field in (MINUTE, HOUR) and len(steps) == 1 and len(found) * min(steps) == size:
        return f"{found[0] or '*'}/{min(steps)}"
    return listed(found)


def listed(values: Sequence[int]) -> str | None:
    found = sorted(set(values))
    return ",".join(map(str, found)) if 0 < len(found) <= MAX_LISTED else None


def plain_days(cron: Cron) -> tuple[str, str] | None:
    """The day of the month and the weekday."""
    if not cron.names_weekdays:
        days = plain_month_days(cron)
        return (days, "*") if days and not cron.occurrence else None
    weekdays = plain_weekdays(cron)
    names_days = {cron.names_days_in(month) for month in cron.months}
    if weekdays and (names_days == {False} or weekdays == "*"):
        return "*", weekdays
    if names_days != {True} or cron.occurrence or cron.last_weekdays:
        return None
    # Either may match. "On day 1, or on Monday and Tuesday" is said of a list of weekdays only.
    days, weekdays = plain_month_days(cron), listed([weekday % 7 for weekday in cron.weekdays])
    return (days, weekdays) if days and weekdays else None


def plain_month_days(cron: Cron) -> str | None:
    if cron.last_days:
        return None if cron.days else "L"
    return text(cron.days, DAY)


def plain_weekdays(cron: Cron) -> str | None:
    found = sorted({weekday % 7 for weekday in cron.weekdays})
    if cron.last_weekdays:
        return None if found or len(cron.last_weekdays) > 1 or cron.occurrence else f"{cron.last_weekdays[0]}L"
    if cron.occurrence:
        return f"{found[0]}#{cron.occurrence}" if len(found) == 1 else None
    if len(found) == 7:
        return "*"
    if len(found) > 2 and found == [0, *range(found[1], 7)]:
        return f"{found[1]}-7"
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{found[0]}-{found[-1]}"
    return listed(found)
