"""The stand-in's cron expressions, compared with recorded verdicts of the real cron-parser and cronstrue."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.standin import cron
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.zone_names import ZONE_NAMES
from tests.demo.standin.conftest import HEADERS, Clock

VERDICTS = Path(__file__).parents[2] / "data" / "cron-verdicts.jsonl"
# Each accepted expression is recorded with its next two times after this one.
AT = datetime(2026, 11, 26, tzinfo=UTC)
VERDICT_OF_STATUS = {200: "accepted", 422: "refused", 500: "breaks"}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in VERDICTS.read_text().splitlines()]


def create_schedule(standin: Standin, expression: str) -> tuple[str, str]:
    """(verdict, body) of a request that creates a schedule with the expression."""
    body = {"task": "customer-prompt-task", "cron": expression, "deduplicationKey": "k"}
    reply = standin.answer(Request("POST", "/api/v1/schedules", HEADERS, json.dumps(body).encode()))
    return VERDICT_OF_STATUS[reply.status], reply.body.decode()


def test_creating_a_schedule_gives_the_recorded_verdict_for_every_cron_expression(
    standin: Standin, clock: Clock, rows: list[dict[str, Any]]
) -> None:
    clock.now, standin.rate_limit = AT, 0
    answers = {row["cron"]: create_schedule(standin, row["cron"]) for row in rows}
    wrong = {row["cron"]: row["verdict"] for row in rows if answers[row["cron"]][0] != row["verdict"]}
    assert wrong == {}
    assert Counter(verdict for verdict, _ in answers.values()) == {"refused": 3421, "accepted": 1597, "breaks": 77}
    refusals = [body for verdict, body in answers.values() if verdict == "refused"]
    assert all(body.startswith('{"error":"Invalid cron expression: ') for body in refusals)


def test_the_next_two_times_of_every_accepted_cron_expression_agree_with_cron_parser(
    rows: list[dict[str, Any]],
) -> None:
    wrong = {row["cron"] for row in rows if "next" in row and next_two(row["cron"]) != row["next"]}
    assert wrong == set()


def next_two(expression: str) -> list[str]:
    times = cron.next_times(expression, "UTC", after=AT, count=2)
    return [time.isoformat(timespec="milliseconds").replace("+00:00", "Z") for time in times]


def test_every_accepted_cron_expression_has_a_description(rows: list[dict[str, Any]]) -> None:
    assert all(cron.describe(row["cron"]) for row in rows if row["verdict"] == "accepted")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("nope", 'Validation error, cannot resolve alias "nop"'),
        ("0 0 9 * * *", "CRON expressions with seconds are not allowed"),
        ("60 9 * * *", "Constraint error, got value 60 expected range 0-59"),
        ("0 9 15W * *", "Invalid characters, got value: 15W"),
        ("0 9 * * MONDAY", 'Validation error, cannot resolve alias "day"'),
        ("30-10 9 * * *", "Invalid range: 30-10"),
        ("*/0 * * * *", "Constraint error, cannot repeat at every 0 time."),
        ("0 9 1, * *", "Invalid list value format"),
        ("0 0 30 2 *", "Invalid explicit day of month definition"),
        ("0 9 * * 1#6", "Constraint error, invalid dayOfWeek occurrence number (#)"),
        ("", "Invalid cron expression"),
    ],
)
def test_a_refused_cron_expression_has_the_message_of_cron_parser(expression: str, reason: str) -> None:
    with pytest.raises(cron.InvalidCronError) as caught:
        cron.check(expression, at=AT)
    assert str(caught.value) == reason


NEVER_FIRES = ["0 0 31 2,4 *", "* * 1 2,4 1L#2", "* * 1 2 *#5", "0 0 7L 2 *"]
HUGE = ["1," * 20_000 + "1 * * * *", "0 9 * * " + "1L," * 5_000 + "1L", "9" * 9_000 + " * * * *", "* " * 3_000]


@pytest.mark.parametrize("expression", NEVER_FIRES)
def test_a_cron_expression_that_never_fires_is_broken_and_has_no_next_time(expression: str) -> None:
    with pytest.raises(cron.BrokenCronError):
        cron.check(expression, at=AT)
    assert cron.next_times(expression, "Europe/London", after=AT) == []


@pytest.mark.parametrize("expression", [*NEVER_FIRES, *HUGE], ids=lambda text: text[:20])
def test_no_cron_expression_takes_long_to_check(expression: str) -> None:
    started = time.process_time()
    try:
        cron.check(expression, at=AT)
    except (cron.InvalidCronError, cron.BrokenCronError):
        return
    finally:
        assert time.process_time() - started < 2
    assert len(cron.next_times(expression, "UTC", after=AT)) == 10


def clock_changes() -> Iterator[tuple[str, datetime]]:
    """Zones whose clocks change at 1:00, 2:00 or midnight, or by half an hour, and the evening before each change."""
    for zone, *days in (
        ("America/New_York", (2027, 3, 13), (2026, 10, 31)),
        ("Europe/London", (2027, 3, 27), (2026, 10, 24)),
        ("America/Havana", (2027, 3, 13), (2026, 10, 31)),
        ("Asia/Beirut", (2027, 3, 27), (2026, 10, 24)),
        ("Australia/Lord_Howe", (2026, 10, 3), (2027, 4, 3)),
    ):
        yield from ((zone, datetime(*day, 8, tzinfo=UTC)) for day in days)


@pytest.mark.parametrize("expression", ["* * * * *", "0 * * * *", "0 0 * * *", "30 1 * * *", "15,45 2 * * *"])
def test_next_times_increase_across_daylight_saving_changes(expression: str) -> None:
    for zone, after in clock_changes():
        times = cron.next_times(expression, zone, after=after, count=1_700 if expression[0] == "*" else 50)
        assert times == sorted(set(times))
        assert times[0] > after
        assert all(time.tzinfo is UTC for time in times)


def test_every_time_zone_has_next_times() -> None:
    for zone in ZONE_NAMES:
        (first,) = cron.next_times("0 9 * * *", zone, after=AT, count=1)
        assert AT < first <= AT + timedelta(days=1)


@pytest.mark.parametrize(
    ("expression", "description"),
    [
        ("0 9 * * 1-5", "At 09:00 AM, Monday through Friday"),
        ("\ufeff0 9 L * *\n", "At 09:00 AM, on the last day of the month"),
        ("0 9 * * 1L", "At 09:00 AM, on the last Monday of the month"),
        ("0- 9 * * *", "0- 9 * * *"),
    ],
)
def test_the_description_is_english_or_the_cron_expression(expression: str, description: str) -> None:
    assert cron.describe(expression) == description
