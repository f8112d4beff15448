"""Whether Trigger.dev computes the same next run as we do."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.cron import calendar
from tasks.cron.calendar import Fire
from tasks.schedules import next_runs
from tasks.trigger.types import Schedule
from tests.cast import Cast, make_task

AT = datetime(2026, 11, 26, 9, 0, 30, tzinfo=UTC)


def schedule(next_run: str | None, *, cron: str = "0 9 * * *", timezone: str = "UTC", active: bool = True) -> Schedule:
    at = datetime.fromisoformat(next_run) if next_run else None
    return Schedule("sched_a", "t", active, cron, timezone, None, None, is_declarative=False, next_run=at)


@pytest.mark.parametrize(
    ("shown", "hours"),
    [
        (schedule("2026-11-27T09:00:00Z"), 0),
        (schedule("2026-11-26T09:00:00Z"), 0),
        (schedule("2026-11-27T10:00:00Z"), 1),
        (schedule("2026-11-27T08:00:00Z"), -1),
        (schedule("2026-11-26T10:00:00Z"), 1),
        (schedule("2026-11-26T10:00:00Z", cron="0 9-17 * * *"), 0),
        (schedule("2026-11-26T11:00:00Z", cron="0 9-17 * * *"), 1),
        (schedule("2026-11-27T09:00:00Z", cron="0 8-9 * * *"), 1),
        (schedule("2026-11-26T10:00:00Z", cron="0 9 * * 4"), 1),
        (schedule("2026-11-26T09:01:00Z", cron="* * * * *"), 0),
        (schedule("2026-11-29T00:00:00Z"), 0),
        (schedule(None), 0),
        (schedule("2026-11-27T10:00:00Z", active=False), 0),
        (schedule("2026-11-26T16:00:00Z", timezone="America/Vancouver"), 0),
        (schedule("2026-11-26T17:00:00Z", timezone="America/Vancouver"), 1),
        (schedule("2026-11-27T10:00:00Z", cron="every day"), 0),
        (schedule("2026-11-27T10:00:00Z", timezone="Nowhere/Land"), 0),
    ],
    ids=[
        *("the next", "the one that has just come", "an hour later", "an hour earlier", "still today", "every hour"),
        *("an hour is left out", "an hour later, of two", "weekly", "every minute", "far away", "none", "paused"),
        *("its zone", "the zone's rule until 2026", "not our cron", "not our zone"),
    ],
)
def test_a_next_run_is_compared_with_ours(
    shown: Schedule, hours: int, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    assert next_runs.shift_of(shown, at=AT) == timedelta(hours=hours)
    is_far = "far away" in request.node.name
    assert ("Trigger.dev's next run is" in caplog.text) is (bool(hours) or is_far)


@pytest.mark.django_db
def test_a_task_knows_that_trigger_fires_it_at_another_time_and_is_polled_at_both(cast: Cast) -> None:
    nine = datetime(2026, 11, 27, 9, tzinfo=UTC)
    periods = calendar.confirm(calendar.change([], "0 9 * * *", "UTC", at=AT), at=AT)
    task = make_task(cast.alice, cast.artist, fire_periods=calendar.to_json(periods), schedule="0 9 * * *")
    for other in (schedule("2026-11-27T10:00:00Z", cron="5 5 * * *"), schedule("2026-11-27T10:00:00Z", timezone="EST")):
        next_runs.store(task.pk, other, timedelta(hours=1))
        task.refresh_from_db()
        assert calendar.fires(task.calendar, since=nine, until=nine)[0].is_certain, "it was about another schedule"
    next_runs.store(task.pk, schedule("2026-11-27T10:00:00Z"), timedelta(hours=1))
    task.refresh_from_db()
    assert calendar.fires(task.calendar, since=nine, until=nine) == [
        Fire(nine, is_certain=False),
        Fire(nine + timedelta(hours=1), is_certain=False),
    ]
    assert task.next_poll_at is not None
