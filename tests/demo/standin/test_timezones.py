"""GET /api/v1/timezones: the recorded time zone names, also for callers without an API key."""

import json
from typing import Any

import pytest

from demo.standin.messages import Reply, Request
from demo.standin.standin import Standin
from demo.standin.zone_names import ZONE_NAMES
from tests import recordings
from tests.demo.standin.conftest import HEADERS

PATH = "/api/v1/timezones"
RECORDED: list[str] = recordings.recording("timezones")["response"]["body"]["timezones"]


def timezones(standin: Standin, query: str = "", headers: dict[str, str] | None = None) -> Reply:
    reply = standin.answer(Request("GET", PATH + query, headers or {}))
    assert reply.status == 200, reply.body
    return reply


def names(reply: Reply) -> Any:
    return json.loads(reply.body)["timezones"]


def test_the_time_zone_names_equal_the_recording() -> None:
    assert list(ZONE_NAMES) == RECORDED


@pytest.mark.parametrize("headers", [{}, HEADERS, {"Authorization": "Bearer tr_prod_wrong"}])
def test_time_zones_need_no_authorization_and_have_no_rate_limit_headers(
    standin: Standin, headers: dict[str, str]
) -> None:
    reply = timezones(standin, headers=headers)
    assert names(reply) == RECORDED
    assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


def test_time_zones_do_not_count_against_the_rate_limit(standin: Standin) -> None:
    standin.rate_limit = 1
    for _ in range(3):
        timezones(standin, headers=HEADERS)
    assert standin.answer(Request("GET", "/api/v1/schedules", HEADERS)).status == 200


def test_exclude_utc_removes_only_utc(standin: Standin) -> None:
    assert names(timezones(standin, "?excludeUtc=true")) == [name for name in RECORDED if name != "UTC"]
    assert names(timezones(standin, "?excludeUtc=false")) == RECORDED
