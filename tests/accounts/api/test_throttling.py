"""How often a caller may ask: per credential, and per address for what does not authenticate."""

import random
from collections import deque
from datetime import datetime
from typing import Any

import pytest
import time_machine
from pytest_django import Settings

from core import rate_limits
from core.rate_limits import Limit, LocalCounters, seconds_until_free
from demo.standin.standin import Standin
from tests.cast import Cast, make_key
from tests.client import ContractClient, with_key

NOON = datetime.fromisoformat("2026-11-24T12:00:00+00:00")
AT = NOON.timestamp()


@pytest.fixture(params=["alone", "redis"])
def counting(request: pytest.FixtureRequest) -> None:
    """Both ways in which is counted."""
    if request.param == "redis":
        request.getfixturevalue("redis")


# --- Counting --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("counting")
def test_no_more_is_taken_than_there_is_and_the_minute_slides() -> None:
    limit = Limit("x", 10)
    assert [rate_limits.take(limit, at=AT + 30) for _ in range(10)] == [None] * 10
    spent = rate_limits.take(limit, at=AT + 30)
    assert spent is not None
    assert spent.limit == limit
    assert rate_limits.take(limit, at=AT + 30 + spent.seconds - 0.5) is not None
    assert rate_limits.take(limit, at=AT + 30 + spent.seconds + 0.5) is None


@pytest.mark.usefixtures("counting")
def test_of_several_limits_none_is_counted_where_one_is_spent() -> None:
    small, large = Limit("small", 1), Limit("large", 5)
    outcomes = [rate_limits.take(small, large, at=AT) for _ in range(9)]
    assert [spent and spent.limit for spent in outcomes] == [None] + [small] * 8
    assert [rate_limits.take(large, at=AT) for _ in range(4)] == [None] * 4
    assert rate_limits.take(large, at=AT) is not None


@pytest.mark.usefixtures("counting")
def test_what_was_taken_can_be_given_back_and_never_more_than_that() -> None:
    limit = Limit("x", 2)
    rate_limits.add({limit: -5}, at=AT)
    for _ in range(2):
        assert rate_limits.take(limit, at=AT) is None
    assert rate_limits.take(limit, at=AT) is not None
    rate_limits.add({limit: -1}, at=AT)
    assert rate_limits.take(limit, at=AT) is None


@pytest.mark.usefixtures("counting")
def test_within_any_minute_hardly_more_is_taken_than_there_is() -> None:
    """The former minute is taken to be even, so that a burst at its end weighs a little less than it is."""
    chance, taken = random.Random(7), deque[float]()
    at = AT
    for _ in range(3000):
        at += chance.expovariate(1.5)
        if rate_limits.take(Limit("x", 50), at=at) is None:
            taken.append(at)
        while taken and taken[0] <= at - 60:
            taken.popleft()
        assert len(taken) <= 50 * 1.4


def test_alone_a_process_has_its_part_only() -> None:
    assert [rate_limits.take(Limit("x", 10, alone=2), at=AT) is None for _ in range(3)] == [True, True, False]


def test_a_clock_that_is_set_back_begins_anew() -> None:
    limit = Limit("x", 1)
    rate_limits.take(limit, at=AT)
    assert rate_limits.take(limit, at=AT - 3600) is None


@pytest.mark.parametrize(("present", "former", "seconds"), [(10, 0, 36.0), (0, 20, 3.0), (5, 10, 6.0), (1, 0, 0.0)])
def test_it_is_told_when_one_more_fits(present: int, former: int, seconds: float) -> None:
    """Of ten a minute, thirty seconds into one."""
    assert seconds_until_free(10, present, former, passed=30) == pytest.approx(seconds)


def test_of_many_made_up_names_those_are_forgotten_that_were_not_counted_for_longest() -> None:
    local, mine = LocalCounters(max_names=100), Limit("mine", 1)
    local.take([mine], at=AT)
    for number in range(1000):
        local.take([Limit(f"made up {number}", 1)], at=AT)
        if number % 50 == 0:
            local.add("mine", 0, at=AT)
    assert local.take([mine], at=AT) is not None
    assert local.take([Limit("made up 5", 1)], at=AT) is None


# --- Per credential --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/runs", "/api/tasks/preview"])
def test_too_many_requests_with_one_key_are_a_429_that_says_when_to_come_again(
    alice_api: ContractClient, settings: Settings, clock: time_machine.Traveller, path: str
) -> None:
    settings.REQUESTS_PER_MINUTE = 3
    query = {"schedule": "0 9 * * *"} if path.endswith("preview") else {}
    responses = [alice_api.get(path, query) for _ in range(5)]
    assert [response.status_code for response in responses] == [200] * 3 + [429] * 2
    assert "3 requests" in str(responses[-1].json())
    clock.shift(int(responses[-1]["Retry-After"]))
    assert alice_api.get(path, query).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_429_has_the_shape_of_the_operation(
    alice_api: ContractClient, settings: Settings, clock: time_machine.Traveller, method: str
) -> None:
    settings.REQUESTS_PER_MINUTE = 1
    alice_api.get("/api/tasks")
    response = alice_api.generic(method, "/api/tasks", "{}", content_type="application/json")
    assert (response.status_code, response.json()["error"]) == (429, 429)


def test_a_key_has_its_own_limit_and_nobody_elses(
    cast: Cast, alice_api: ContractClient, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.REQUESTS_PER_MINUTE = 1
    assert [alice_api.get("/api/tasks").status_code for _ in range(2)] == [200, 429]
    assert with_key(make_key(cast.alice)).get("/api/tasks").status_code == 200


def test_a_preflight_is_never_too_many(anonymous_api: ContractClient, settings: Settings) -> None:
    settings.REQUESTS_PER_MINUTE = settings.AUTH_FAILURES_PER_MINUTE = 1
    assert {anonymous_api.options("/api/tasks").status_code for _ in range(5)} == {200}


# --- Per address -----------------------------------------------------------------------------------------------------


def statuses(api: ContractClient, count: int, **headers: Any) -> list[int]:
    return [api.get("/api/tasks/runs", **headers).status_code for _ in range(count)]


@pytest.mark.usefixtures("counting")
def test_too_many_bad_keys_from_one_address_are_a_429(
    db: None, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 3
    assert statuses(with_key("recoup_sk_bad"), 5) == [401] * 3 + [429] * 2
    assert statuses(with_key("recoup_sk_bad"), 1, REMOTE_ADDR="192.0.2.7") == [401]
    assert "Retry-After" in with_key("recoup_sk_bad").get("/api/tasks/runs").headers


def test_a_good_key_is_served_from_an_address_that_guesses(
    alice_api: ContractClient, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 1
    assert statuses(with_key("recoup_sk_bad"), 3) == [401, 429, 429]
    assert statuses(alice_api, 3) == [200] * 3


def test_an_ipv6_subscriber_is_one_address(db: None, settings: Settings, clock: time_machine.Traveller) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 1
    api = with_key("recoup_sk_bad")
    assert statuses(api, 1, REMOTE_ADDR="2001:db8:1:2::1") == [401]
    assert statuses(api, 1, REMOTE_ADDR="2001:db8:1:2:3:4:5:6") == [429]
    assert statuses(api, 1, REMOTE_ADDR="2001:db8:1:3::1") == [401]


@pytest.mark.parametrize(("proxies", "expected"), [(0, [401, 429]), (1, [401, 401])])
def test_a_forwarded_address_is_believed_as_far_as_proxies_are_trusted(
    db: None, settings: Settings, clock: time_machine.Traveller, proxies: int, expected: list[int]
) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 1
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "NUM_PROXIES": proxies}
    api = with_key("recoup_sk_bad")
    addresses = ("198.51.100.1", "made up, 198.51.100.2")
    assert [statuses(api, 1, HTTP_X_FORWARDED_FOR=address)[0] for address in addresses] == expected


def test_no_part_of_a_key_is_ever_logged(
    alice_api: ContractClient,
    trigger: Standin,
    settings: Settings,
    clock: time_machine.Traveller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    settings.AUTH_FAILURES_PER_MINUTE = settings.REQUESTS_PER_MINUTE = 2
    secret = "q7Zx-secret-part"
    statuses(with_key(f"recoup_sk_{secret}"), 5)
    for scheme in ("Bearer", "Basic", "bearer"):
        alice_api.get("/api/tasks", HTTP_AUTHORIZATION=f"{scheme} recoup_sk_{secret}", HTTP_X_API_KEY="")
    assert statuses(alice_api, 4)[-1] == 429
    assert secret not in caplog.text
