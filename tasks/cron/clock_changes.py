"""The times of a day on which clocks change, as Trigger.dev finds them.

Its cron-parser walks the wall clock from the last time on, by days, hours and minutes. Where an expression names its
hours, it remembers a step that has skipped an hour, whose times then come an hour late, and one that has arrived in an
hour again, whose second pass is then left out. Both are noticed only when an hour's step shows them: not at midnight,
and not where clocks change by half an hour. So the same walk is made here. Its days are read with their seconds at 0.
"""

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tasks.cron.expressions import Cron

ONE_DAY, ONE_HOUR, ONE_MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def times_of_day(day: date, cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    """The times on `day` after `after`, which is the last time or later than any on the days before."""
    # Every walk comes by here, and the days in between have no times, or `after` is one of them.
    before = datetime.combine((day.replace(day=1) - ONE_DAY).replace(day=1), time(), zone).astimezone(UTC)
    end = datetime.combine(day + ONE_DAY, time(), zone).astimezone(UTC)
    found = first_time(cron, zone, after=max(after, before), end=end)
    while found is not None:
        if found.astimezone(zone).date() == day:
            yield found
        found = first_time(cron, zone, after=found, end=end)


def first_time(cron: Cron, zone: ZoneInfo, *, after: datetime, end: datetime) -> datetime | None:
    """The first time after `after` and before `end`, both in UTC."""
    skipped_to = repeated = None
    wall = after.astimezone(zone)
    while wall.astimezone(UTC) < end:
        is_named = wall.hour in cron.hours
        is_late = not is_named and wall.hour == skipped_to
        if not cron.names_in_its_month(wall.date()):
            wall = next_day(wall)
            continue
        if wall.month not in cron.months:
            wall = next_month(wall)
            continue
        if is_late and wall.hour - 1 not in cron.hours:
            wall = next_hour(wall)
            continue
        if is_named and wall.hour == repeated:
            repeated = None
            following = next_hour(wall)
        elif is_named or is_late:
            if wall.minute in cron.minutes and wall.astimezone(UTC) > after:
                return wall.astimezone(UTC)
            following = next_minute(wall)
        else:
            skipped_to = None
            following = next_hour(wall)
        if cron.names_hours and following.hour - wall.hour == 2:
            skipped_to = following.hour
        elif cron.names_hours and following.hour == wall.hour and following.minute == 0:
            repeated = following.hour
        wall = following
    return None


def next_month(wall: datetime) -> datetime:
    first = (wall.replace(day=1) + 32 * ONE_DAY).replace(day=1)
    length = monthrange(first.year, first.month)[1]
    later = on_the_clock(first.replace(day=min(wall.day, length)), wall.utcoffset())
    return on_the_clock(later.replace(day=1, hour=0, minute=0, second=0, microsecond=0), later.utcoffset())


def next_day(wall: datetime) -> datetime:
    tomorrow = on_the_clock(wall + ONE_DAY, wall.utcoffset())
    start = on_the_clock(tomorrow.replace(hour=0, minute=0, second=0, microsecond=0), tomorrow.utcoffset())
    # The same moment again: there is no such midnight.
    return next_hour(start) if start.astimezone(UTC) == wall.astimezone(UTC) else start


def next_hour(wall: datetime) -> datetime:
    later = (wall.astimezone(UTC) + ONE_HOUR).astimezone(wall.tzinfo)
    start = on_the_clock(later.replace(minute=0, second=0, microsecond=0), later.utcoffset())
    if start.astimezone(UTC) <= wall.astimezone(UTC):
        return (start.astimezone(UTC) + ONE_HOUR).astimezone(wall.tzinfo)
    return start


def next_minute(wall: datetime) -> datetime:
    minute = wall.astimezone(UTC).replace(second=0, microsecond=0)
    return (minute + ONE_MINUTE).astimezone(wall.tzinfo)


def on_the_clock(wall: datetime, offset: timedelta | None) -> datetime:
    """A wall time as clocks show it: one that is skipped comes later; of one that is repeated, the pass of `offset`."""
    first, second = wall.replace(fold=0), wall.replace(fold=1)
    is_second = second.utcoffset() == offset and first.astimezone(UTC) < second.astimezone(UTC)
    return (second if is_second else first).astimezone(UTC).astimezone(wall.tzinfo)
