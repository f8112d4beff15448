from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tasks import cron
from tasks.cron import zones
from tests.recordings import recording

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KNOWN_TO_TRIGGER = set(recording("timezones")["response"]["body"]["timezones"])
# UTC-12: no inhabited zone has that clock, so Trigger.dev's list has no counterpart, and it is refused by name.
REFUSED = {zones.NOT_AT_TRIGGER}
IANA = sorted(zones.names() - REFUSED)


def test_trigger_knows_419_zones_and_each_is_sent_as_it_is() -> None:
    assert len(KNOWN_TO_TRIGGER) == 419
    assert {name: zones.trigger_name(name) for name in KNOWN_TO_TRIGGER} == {name: name for name in KNOWN_TO_TRIGGER}


@pytest.mark.parametrize("region", sorted({name.split("/")[0] for name in IANA}))
def test_every_iana_zone_has_next_times_and_a_counterpart_with_the_same_clock(region: str) -> None:
    for name in IANA:
        if name.split("/")[0] == region:
            check_zone(name)


def check_zone(name: str) -> None:
    sent = zones.trigger_name(name)
    assert sent in KNOWN_TO_TRIGGER
    assert len(cron.next_times("0 9 * * *", name, after=NOW)) == 10
    moments = [NOW + timedelta(days=days) for days in range(-60, 400, 5)]
    assert [moment.astimezone(ZoneInfo(name)).utcoffset() for moment in moments] == [
        moment.astimezone(ZoneInfo(sent)).utcoffset() for moment in moments
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Asia/Kolkata", "Asia/Calcutta"),
        ("Europe/Kyiv", "Europe/Kiev"),
        ("America/Argentina/Buenos_Aires", "America/Buenos_Aires"),
        ("GMT", "UTC"),
        ("US/Eastern", "America/New_York"),
    ],
)
def test_todays_names_are_sent_as_trigger_knows_them(given: str, sent: str) -> None:
    assert zones.trigger_name(given) == sent


@pytest.mark.parametrize(
    "name", ["", "EST5EDT4", "europe/london", "UTC+1", "../etc/passwd", "localtime", "\x00", "x" * 5000]
)
def test_what_is_no_iana_name_is_refused(name: str) -> None:
    with pytest.raises(zones.ZoneError):
        zones.check(name)


def test_a_name_in_the_wrong_case_is_told_the_right_one() -> None:
    with pytest.raises(zones.ZoneError, match="Did you mean Europe/London"):
        zones.check("europe/london")


def test_the_one_zone_without_a_counterpart_is_refused_by_name() -> None:
    with pytest.raises(zones.ZoneError, match="without an equivalent"):
        zones.check("Etc/GMT+12")
