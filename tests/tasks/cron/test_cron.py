"""Cron expressions and their next times. The oracle holds the times of cron-parser 4.9, Trigger.dev's library."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tasks import cron
from tasks.cron.expressions import Cron, parse
from tasks.cron.fire_times import MAX_MONTHS, days
from tasks.runs.reading import cached_times

DATA = Path(__file__).parents[2] / "data"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
# The oracle was recorded with the time zones of 2025b. These of its rows fall where Casablanca and Havana have had
# other rules since.
NEW_RULES = "cron-oracle-new-rules.jsonl"
# Refused on purpose: anything but single spaces between fields. Trigger.dev takes some of these.
OTHER_WHITE_SPACE = re.compile("[\t\r\xa0\ufeff]|\n.")


def rows(name: str) -> Iterator[dict[str, Any]]:
    for line in (DATA / name).read_text().splitlines():
        yield json.loads(line)


def computed_times(row: dict[str, Any], *, after: str, zone: str) -> list[str]:
    times = cron.next_times(row["cron"], zone, after=datetime.fromisoformat(after), count=len(row["next"]))
    return [time.isoformat(timespec="milliseconds").replace("+00:00", "Z") for time in times]


def test_every_recorded_verdict_is_ours_and_accepted_expressions_have_the_same_next_times() -> None:
    wrong = []
    for row in rows("cron-verdicts.jsonl"):
        try:
            cron.check(row["cron"])
            found = computed_times(row, after="2026-11-26T00:00:00Z", zone="UTC") if "next" in row else "accepted"
        except cron.CronError:
            found = None
        if found != row.get("next") and not OTHER_WHITE_SPACE.search(row["cron"]):
            wrong.append((row["cron"], row["verdict"], found))
    assert wrong == []


def test_next_times_agree_with_cron_parser_except_where_time_zones_have_new_rules() -> None:
    wrong = [
        {name: row[name] for name in ("cron", "timezone", "after")}
        for row in rows("cron-oracle.jsonl")
        if computed_times(row, after=row["after"], zone=row["timezone"]) != row["next"]
    ]
    assert wrong == list(rows(NEW_RULES))


def test_next_times_around_clock_changes_agree_with_cron_parser() -> None:
    """Half of them in zones whose clocks change at midnight, or by half an hour or two hours."""
    wrong = [
        row
        for row in rows("cron-clock-changes.jsonl")
        if computed_times(row, after=row["after"], zone=row["timezone"]) != row["next"]
    ]
    assert wrong == []


class WatchedCron(Cron):
    """Counts the days that are looked at."""

    looked_at: ClassVar[list[date]]

    def names(self, day: date) -> bool:
        self.looked_at.append(day)
        return super().names(day)


@pytest.mark.parametrize("expression", ["0 0 29 2 1#5", "0 0 * 2 1#5", "0 0 31 2,4,6,9,11 *", "0 0 15 2 1#5"])
def test_the_search_for_rare_days_is_bounded(expression: str) -> None:
    WatchedCron.looked_at = []
    cron_ = WatchedCron(**asdict(parse(expression)))
    assert len(list(days(cron_, start=date(2026, 11, 26)))) <= MAX_MONTHS
    assert len(WatchedCron.looked_at) <= MAX_MONTHS * 31


# Expressions that the real server was recorded to accept and to reject.
# fmt: off
ACCEPTED = [
    "* * * * *", "*/15 9-17 * * 1-5", "5/15 * * * *", "0,30 9 * * *", "0 9 * * MON-FRI", "0 9 * * mon,wed",
    "0 9 * JAN,JUL *", "0 9 * * 0", "0 9 * * 7", "0 9 * * 5-7", "0 9 L * *", "0 9 * * 1L", "0 9 * * 5L", "0 9 * * 1#2",
    "1-2-3 * * * *", "*-5 * * * *", "0 9 5L * *", "0 9 L/2 * *", "0 9 1,?L,* * *", "0 9 * * *,L", "0 9 * * 06",
    "-0 9 * * *", "0 9 ? * 1", "0 9 1 * ?", "*/99 * * * *", "0 9 * * *\n", "0 0 29 2 *", "0 9 1 * 1",
]
REJECTED = [
    "0 0 9 * * *", "0 0 9 * * * 2026", "0  9 * * *", " 0 9 * * *", "0 9 * * * ", "", "60 9 * * *", "0 24 * * *",
    "0 9 0 * *", "0 9 32 * *", "0 9 * 13 *", "0 9 * * 8", "0 9 * * MONDAY", "30-10 9 * * *", "0 9 * * SAT-SUN",
    "*/0 * * * *", "0 9 15W * *", "0 9 LW * *", "H 9 * * *", "? 9 * * *", "0 0 30 2 *", "0 0 31 4 *", "0 0 31 2,4 *",
    ", * * * *", "0 9, * * *", "* * 1 , 1-5", "0 9 * * 07", "0 9 * * 007", "0 9 0L * *", "0 9 * * 8L", "0 9 * * L#1",
    "0 9 * 0* *", "0 9 1 2 *#5", "0 9 * * 1-5,L", "0 9 7L 2 *",
    "@annually", "@reboot", "@daily", "@hourly", "@weekly", "@monthly", "@yearly", "0 9 1, * *", "0 9 *", "0 9 * *",
    "0\t9\t*\t*\t*", "0 9 * * L", "R * * * *", "0 9 * * 1#6", "0 9 * * 1#", "0 9 * * 1,2#1", "0 9 * * */2#1",
    "\u0660 9 * * *", "0 9 * * *\n\n", "0 9 1 * *#5", "1/2/3 * * * *", "- * * * *", "/5 * * * *",
    "0 9 * FOO *", "\x00 * * * *",
]
# fmt: on


@pytest.mark.parametrize("expression", ACCEPTED)
def test_a_cron_expression_that_trigger_accepts_is_valid_and_has_next_times(expression: str) -> None:
    cron.check(expression)
    times = cron.next_times(expression, "Europe/London", after=NOW)
    assert len(times) == 10
    assert times == sorted(set(times))
    assert all(time > NOW and time.tzinfo is UTC for time in times)


@pytest.mark.parametrize("expression", [*REJECTED, "* " * 2500, "1," * 3000 + "1 * * * *"], ids=lambda text: text[:20])
def test_a_cron_expression_that_trigger_rejects_or_fails_on_is_invalid_with_a_reason(expression: str) -> None:
    with pytest.raises(cron.CronError) as caught:
        cron.check(expression)
    assert str(caught.value)[0].isupper()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 9, * * *", "The hour cannot be '9,': a value is missing beside a comma."),
        ("0 9 * * 07", "The weekday cannot hold '07'."),
        ("0 24 * * *", "The hour must be from 0 to 23, not 24."),
        ("0 9 * FOO *", "The month cannot be 'FOO'."),
        ("0 9 * * 1#9", "The weekday cannot be '1#9': write weekday#occurrence, with 1 to 5 as the occurrence."),
        ("0 0 30 2 *", "The month 2 has no day 30."),
        ("0 0 31 2,4 *", "It never matches a date."),
    ],
)
def test_the_reason_names_the_invalid_cron_field(expression: str, reason: str) -> None:
    with pytest.raises(cron.CronError) as caught:
        cron.check(expression)
    assert str(caught.value) == reason


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", "Australia/Lord_Howe", "Africa/Cairo", "UTC"])
def test_many_next_times_at_once_equal_next_times_one_by_one(zone: str) -> None:
    times = cron.next_times("30 2 * * *", zone, after=NOW, count=400)
    after = NOW
    for time in times:
        (after,) = cron.next_times("30 2 * * *", zone, after=after, count=1)
        assert after == time


def test_an_hour_skipped_by_daylight_saving_fires_once_an_hour_late() -> None:
    start = datetime(2027, 3, 13, 12, tzinfo=UTC)
    (time,) = cron.next_times("0,30 2 * * *", "America/New_York", after=start, count=1)
    assert time == datetime(2027, 3, 14, 7, 0, tzinfo=UTC), (
        "2:00 does not exist that day, so it fires at 3:00 daylight saving time"
    )


def test_an_hour_repeated_by_daylight_saving_fires_once() -> None:
    start = datetime(2026, 11, 1, 4, tzinfo=UTC)
    times = cron.next_times("30 1 * * *", "America/New_York", after=start, count=2)
    assert times == [datetime(2026, 11, 1, 5, 30, tzinfo=UTC), datetime(2026, 11, 2, 6, 30, tzinfo=UTC)]


def test_next_times_are_cached_until_the_first_has_passed() -> None:
    kept = cached_times("0 9 * * *", "UTC", now=NOW)
    assert cached_times("0 9 * * *", "UTC", now=kept[0] - timedelta(seconds=1)) is kept
    next_kept = cached_times("0 9 * * *", "UTC", now=kept[0])
    assert next_kept == tuple(cron.next_times("0 9 * * *", "UTC", after=kept[0]))
    assert cached_times("0 9 * * *", "UTC", now=NOW)[0] == kept[0], "also when the clock is set back"
