"""Whether Trigger.dev computes the same next run as we do."""

from datetime import UTC, datetime

import pytest

from tasks.schedules import next_runs
from tasks.trigger.types import Schedule

AT = datetime(2026, 11, 26, 9, 0, 30, tzinfo=UTC)


def schedule(next_run: str | None, *, cron: str = "0 9 * * *", timezone: str = "UTC", active: bool = True) -> Schedule:
    at = datetime.fromisoformat(next_run) if next_run else None
    return Schedule("sched_a", "t", active, cron, timezone, None, None, is_declarative=False, next_run=at)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (schedule("2026-11-27T09:00:00Z"), False),
        (schedule("2026-11-26T09:00:00Z"), False),
        (schedule("2026-11-27T10:00:00Z"), True),
        (schedule("2026-11-25T09:00:00Z"), True),
        (schedule(None), False),
        (schedule("2026-11-27T10:00:00Z", active=False), False),
        (schedule("2026-11-27T17:00:00Z", timezone="America/Vancouver"), False),
        (schedule("2026-11-27T16:00:00Z", timezone="America/Vancouver"), True),
        (schedule("2026-11-27T10:00:00Z", cron="every day"), False),
        (schedule("2026-11-27T10:00:00Z", timezone="Nowhere/Land"), False),
    ],
    ids=[
        *("the next", "the one that has just come", "an hour later", "yesterday", "none", "paused"),
        *("its zone", "another rule for the zone", "not our cron", "not our zone"),
    ],
)
def test_a_next_run_is_compared_with_ours(shown: Schedule, expected: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert next_runs.differs(shown, at=AT) is expected
    assert ("Trigger.dev's next run is" in caplog.text) is expected
