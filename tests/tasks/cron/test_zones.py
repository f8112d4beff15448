"""Time zones: every IANA name is valid, and is sent to Trigger.dev under a name that it knows."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tasks import cron
from tasks.cron import zones
from tests.recordings import recording

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TRIGGER_ZONES = set(recording("timezones")["response"]["body"]["timezones"])
# No inhabited zone is at UTC-12, so Trigger.dev's list has no equivalent, and this zone is refused.
REFUSED = {zones.NOT_AT_TRIGGER}
IANA = sorted(zones.names() - REFUSED)


def test_each_of_the_419_zones_of_trigger_is_sent_unchanged() -> None:
    assert len(TRIGGER_ZONES) == 419
    assert {name: zones.trigger_name(name) for name in TRIGGER_ZONES} == {name: name for name in TRIGGER_ZONES}


@pytest.mark.parametrize("region", sorted({name.split("/")[0] for name in IANA}))
def test_every_iana_time_zone_has_next_times_and_an_equivalent_with_the_same_utc_offset(region: str) -> None:
    for name in IANA:
        if name.split("/")[0] == region:
            check_equivalent_zone(name)


def check_equivalent_zone(name: str) -> None:
    equivalent = zones.trigger_name(name)
    assert equivalent in TRIGGER_ZONES
    assert len(cron.next_times("0 9 * * *", name, after=NOW)) == 10
    moments = [NOW + timedelta(days=days) for days in range(-60, 400, 5)]
    assert [moment.astimezone(ZoneInfo(name)).utcoffset() for moment in moments] == [
        moment.astimezone(ZoneInfo(equivalent)).utcoffset() for moment in moments
    ]


@pytest.mark.parametrize(
    ("name", "trigger_name"),
    [
        ("Asia/Kolkata", "Asia/Calcutta"),
        ("Europe/Kyiv", "Europe/Kiev"),
        ("America/Argentina/Buenos_Aires", "America/Buenos_Aires"),
        ("GMT", "UTC"),
        ("US/Eastern", "America/New_York"),
    ],
)
def test_a_current_time_zone_name_is_sent_as_the_name_that_trigger_knows(name: str, trigger_name: str) -> None:
    assert zones.trigger_name(name) == trigger_name


@pytest.mark.parametrize(
    "name", ["", "EST5EDT4", "europe/london", "UTC+1", "../etc/passwd", "localtime", "\x00", "x" * 5000]
)
def test_an_unknown_time_zone_name_is_refused(name: str) -> None:
    with pytest.raises(zones.ZoneError):
        zones.check(name)


def test_a_time_zone_name_in_the_wrong_case_gets_a_suggestion() -> None:
    with pytest.raises(zones.ZoneError, match="Did you mean Europe/London"):
        zones.check("europe/london")


def test_the_time_zone_without_an_equivalent_is_refused() -> None:
    with pytest.raises(zones.ZoneError, match="without an equivalent"):
        zones.check("Etc/GMT+12")
