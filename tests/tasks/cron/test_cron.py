"""When Trigger.dev fires: the oracle holds what its own library, cron-parser 4.9, answered."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks import cron
from tasks.runs.fires import kept_times

ORACLE = Path(__file__).parents[2] / "data" / "cron-oracle.jsonl"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MIDNIGHT_REPEATS = "cron-parser jumps there over days that do not match, and lands on the second of two midnights"
KNOWN_MISSES = {
    ("27/5 * 31 */9 */5", "Atlantic/Azores", "2026-10-24T22:15:00.000Z"): MIDNIGHT_REPEATS,
    ("59 * * */5 *", "America/Havana", "2026-10-03T15:00:00.000Z"): MIDNIGHT_REPEATS,
}


def rows() -> Iterator[dict[str, Any]]:
    for line in ORACLE.read_text().splitlines():
        yield json.loads(line)


def computed(row: dict[str, Any]) -> list[str]:
    times = cron.next_times(row["cron"], row["timezone"], after=datetime.fromisoformat(row["after"]))
    return [time.isoformat(timespec="milliseconds").replace("+00:00", "Z") for time in times]


def test_every_row_of_the_oracle_agrees_but_those_listed_by_name() -> None:
    wrong = {(row["cron"], row["timezone"], row["after"]) for row in rows() if computed(row) != row["next"]}
    assert wrong == set(KNOWN_MISSES)
    assert len(KNOWN_MISSES) <= 5


# What the real server was recorded to take, and not to take.
# fmt: off
ACCEPTED = [
    "* * * * *", "*/15 9-17 * * 1-5", "5/15 * * * *", "0,30 9 * * *", "0 9 * * MON-FRI", "0 9 * * mon,wed",
    "0 9 * JAN,JUL *", "0 9 * * 0", "0 9 * * 7", "0 9 * * 5-7", "0 9 L * *", "0 9 * * 1L", "0 9 * * 5L", "0 9 * * 1#2",
    "0 9 ? * 1", "0 9 1 * ?", "*/99 * * * *", "0 9 * * *\n", "0 0 29 2 *", "0 9 1 * 1",
]
REJECTED = [
    "0 0 9 * * *", "0 0 9 * * * 2026", "0  9 * * *", " 0 9 * * *", "0 9 * * * ", "", "60 9 * * *", "0 24 * * *",
    "0 9 0 * *", "0 9 32 * *", "0 9 * 13 *", "0 9 * * 8", "0 9 * * MONDAY", "30-10 9 * * *", "0 9 * * SAT-SUN",
    "*/0 * * * *", "0 9 15W * *", "0 9 LW * *", "H 9 * * *", "? 9 * * *", "0 0 30 2 *", "0 0 31 4 *", "0 0 31 2,4 *",
    "@annually", "@reboot", "@daily", "@hourly", "@weekly", "@monthly", "@yearly", "0 9 1, * *", "0 9 *", "0 9 * *",
    "0\t9\t*\t*\t*", "0 9 * * L", "R * * * *", "0 9 * * 1#6", "0 9 * * 1#", "0 9 * * 1,2#1", "0 9 * * */2#1",
    "\u0660 9 * * *", "0 9 * * *\n\n", "0 9 1 * *#5", "1-2-3 * * * *", "1/2/3 * * * *", "- * * * *", "/5 * * * *",
    "0 9 * FOO *", "0 9 5L * *", "\x00 * * * *",
]
# fmt: on


@pytest.mark.parametrize("expression", ACCEPTED)
def test_what_trigger_takes_is_taken_and_has_next_times(expression: str) -> None:
    cron.check(expression)
    times = cron.next_times(expression, "Europe/London", after=NOW)
    assert len(times) == 10
    assert times == sorted(set(times))
    assert all(time > NOW and time.tzinfo is UTC for time in times)


@pytest.mark.parametrize("expression", [*REJECTED, "* " * 2500, "1," * 3000 + "1 * * * *"], ids=lambda text: text[:20])
def test_what_trigger_refuses_or_breaks_on_is_refused_with_a_reason(expression: str) -> None:
    with pytest.raises(cron.CronError) as caught:
        cron.check(expression)
    assert str(caught.value)[0].isupper()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 24 * * *", "The hour must be from 0 to 23, not 24."),
        ("0 9 * FOO *", "The month cannot be 'FOO'."),
        ("0 9 * * 1#9", "The weekday cannot be '1#9': a # stands between one weekday and a number from 1 to 5."),
        ("0 0 30 2 *", "The month 2 has no day 30."),
        ("0 0 31 2,4 *", "There is no day on which this would ever run."),
    ],
)
def test_the_reason_names_the_field(expression: str, reason: str) -> None:
    with pytest.raises(cron.CronError) as caught:
        cron.check(expression)
    assert str(caught.value) == reason


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", "Australia/Lord_Howe", "Africa/Cairo", "UTC"])
def test_ten_times_asked_at_once_are_those_asked_one_after_the_other(zone: str) -> None:
    at_once = cron.next_times("30 2 * * *", zone, after=NOW, count=400)
    after = NOW
    for time in at_once:
        (after,) = cron.next_times("30 2 * * *", zone, after=after, count=1)
        assert after == time


def test_an_hour_that_the_clock_skips_fires_once_an_hour_late() -> None:
    before = datetime(2027, 3, 13, 12, tzinfo=UTC)
    (time,) = cron.next_times("0,30 2 * * *", "America/New_York", after=before, count=1)
    assert time == datetime(2027, 3, 14, 7, 0, tzinfo=UTC), "2:00 is not there, 3:00 in summer time is"


def test_an_hour_that_the_clock_repeats_fires_once() -> None:
    before = datetime(2026, 11, 1, 4, tzinfo=UTC)
    times = cron.next_times("30 1 * * *", "America/New_York", after=before, count=2)
    assert times == [datetime(2026, 11, 1, 5, 30, tzinfo=UTC), datetime(2026, 11, 2, 6, 30, tzinfo=UTC)]


def test_computed_times_are_kept_until_the_first_has_passed() -> None:
    first = kept_times("0 9 * * *", "UTC", now=NOW)
    assert kept_times("0 9 * * *", "UTC", now=first[0] - timedelta(seconds=1)) is first
    later = kept_times("0 9 * * *", "UTC", now=first[0])
    assert later == tuple(cron.next_times("0 9 * * *", "UTC", after=first[0]))
    assert kept_times("0 9 * * *", "UTC", now=NOW)[0] == first[0], "also when time goes back"


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 9 * * 1-5", "At 09:00 AM, Monday through Friday"),
        ("*/15 9-17 * * *", "Every 15 minutes, between 09:00 AM and 05:59 PM"),
        ("0 9 * * 5L", "At 09:00 AM, on the last Friday of the month"),
        ("0 9 1 * *\n", "At 09:00 AM, on day 1 of the month"),
    ],
)
def test_a_cron_in_words(expression: str, words: str) -> None:
    assert cron.describe(expression) == words


@pytest.mark.parametrize("expression", ACCEPTED)
def test_every_accepted_cron_has_words(expression: str) -> None:
    assert cron.describe(expression)
