"""Rate limits: per credential, and per address for failed authentication."""

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


@pytest.fixture(params=["local", "redis"])
def counting(request: pytest.FixtureRequest) -> None:
    """Runs the test with counters in the process, and with counters in Redis."""
    if request.param == "redis":
        request.getfixturevalue("redis")


# --- Counters --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("counting")
def test_a_rate_limit_allows_its_number_per_sliding_minute() -> None:
    limit = Limit("x", 10)
    assert [rate_limits.take(limit, at=AT + 30) for _ in range(10)] == [None] * 10
    exceeded = rate_limits.take(limit, at=AT + 30)
    assert exceeded is not None
    assert exceeded.limit == limit
    assert rate_limits.take(limit, at=AT + 30 + exceeded.seconds - 0.5) is not None
    assert rate_limits.take(limit, at=AT + 30 + exceeded.seconds + 0.5) is None


@pytest.mark.usefixtures("counting")
def test_if_one_rate_limit_is_exceeded_none_of_several_is_counted() -> None:
    small, large = Limit("small", 1), Limit("large", 5)
    outcomes = [rate_limits.take(small, large, at=AT) for _ in range(9)]
    assert [exceeded and exceeded.limit for exceeded in outcomes] == [None] + [small] * 8
    assert [rate_limits.take(large, at=AT) for _ in range(4)] == [None] * 4
    assert rate_limits.take(large, at=AT) is not None


@pytest.mark.usefixtures("counting")
def test_no_minute_exceeds_the_rate_limit_by_more_than_40_percent() -> None:
    """The sliding window assumes an even previous minute, so a burst at its end counts a little less than it should."""
    rng, taken = random.Random(7), deque[float]()
    at = AT
    for _ in range(3000):
        at += rng.expovariate(1.5)
        if rate_limits.take(Limit("x", 50), at=at) is None:
            taken.append(at)
        while taken and taken[0] <= at - 60:
            taken.popleft()
        assert len(taken) <= 50 * 1.4


def test_a_process_without_shared_counters_has_only_its_share_of_the_rate_limit() -> None:
    assert [rate_limits.take(Limit("x", 10, alone=2), at=AT) is None for _ in range(3)] == [True, True, False]


def test_a_clock_that_is_set_back_resets_the_count() -> None:
    limit = Limit("x", 1)
    rate_limits.take(limit, at=AT)
    assert rate_limits.take(limit, at=AT - 3600) is None


@pytest.mark.parametrize(("current", "previous", "seconds"), [(10, 0, 36.0), (0, 20, 3.0), (5, 10, 6.0), (1, 0, 0.0)])
def test_seconds_until_the_next_request_is_allowed(current: int, previous: int, seconds: float) -> None:
    """With a limit of ten per minute, thirty seconds into a minute."""
    assert seconds_until_free(10, current, previous, passed=30) == pytest.approx(seconds)


def test_local_counters_forget_the_least_recently_used_names() -> None:
    counters, kept = LocalCounters(max_names=100), Limit("kept", 1)
    counters.take([kept], at=AT)
    for number in range(1000):
        counters.take([Limit(f"unknown {number}", 1)], at=AT)
        if number % 50 == 0:
            counters.add("kept", at=AT)
    assert counters.take([kept], at=AT) is not None
    assert counters.take([Limit("unknown 5", 1)], at=AT) is None


# --- Per credential --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/runs", "/api/tasks/preview"])
def test_requests_over_the_rate_limit_of_an_api_key_get_a_429_with_retry_after(
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
def test_a_429_has_the_error_shape_of_its_operation(
    alice_api: ContractClient, settings: Settings, clock: time_machine.Traveller, method: str
) -> None:
    settings.REQUESTS_PER_MINUTE = 1
    alice_api.get("/api/tasks")
    response = alice_api.generic(method, "/api/tasks", "{}", content_type="application/json")
    assert (response.status_code, response.json()["error"]) == (429, 429)


def test_each_api_key_has_its_own_rate_limit(
    cast: Cast, alice_api: ContractClient, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.REQUESTS_PER_MINUTE = 1
    assert [alice_api.get("/api/tasks").status_code for _ in range(2)] == [200, 429]
    assert with_key(make_key(cast.alice)).get("/api/tasks").status_code == 200


def test_preflight_requests_have_no_rate_limit(anonymous_api: ContractClient, settings: Settings) -> None:
    settings.REQUESTS_PER_MINUTE = settings.AUTH_FAILURES_PER_MINUTE = 1
    assert {anonymous_api.options("/api/tasks").status_code for _ in range(5)} == {200}


# --- Per address -----------------------------------------------------------------------------------------------------


def request_statuses(api: ContractClient, count: int, **headers: Any) -> list[int]:
    return [api.get("/api/tasks/runs", **headers).status_code for _ in range(count)]


@pytest.mark.usefixtures("counting")
def test_repeated_failed_authentication_from_one_address_gets_a_429(
    db: None, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 3
    assert request_statuses(with_key("recoup_sk_bad"), 5) == [401] * 3 + [429] * 2
    assert request_statuses(with_key("recoup_sk_bad"), 1, REMOTE_ADDR="192.0.2.7") == [401]
    assert "Retry-After" in with_key("recoup_sk_bad").get("/api/tasks/runs").headers


def test_alice_is_served_from_an_address_with_failed_authentication(
    alice_api: ContractClient, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 1
    assert request_statuses(with_key("recoup_sk_bad"), 3) == [401, 429, 429]
    assert request_statuses(alice_api, 3) == [200] * 3


def test_an_ipv6_64_network_counts_as_one_address(db: None, settings: Settings, clock: time_machine.Traveller) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 1
    api = with_key("recoup_sk_bad")
    assert request_statuses(api, 1, REMOTE_ADDR="2001:db8:1:2::1") == [401]
    assert request_statuses(api, 1, REMOTE_ADDR="2001:db8:1:2:3:4:5:6") == [429]
    assert request_statuses(api, 1, REMOTE_ADDR="2001:db8:1:3::1") == [401]


@pytest.mark.parametrize(("proxies", "expected"), [(0, [401, 429]), (1, [401, 401])])
def test_the_forwarded_address_is_used_only_behind_trusted_proxies(
    db: None, settings: Settings, clock: time_machine.Traveller, proxies: int, expected: list[int]
) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 1
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "NUM_PROXIES": proxies}
    api = with_key("recoup_sk_bad")
    addresses = ("198.51.100.1", "forged, 198.51.100.2")
    assert [request_statuses(api, 1, HTTP_X_FORWARDED_FOR=address)[0] for address in addresses] == expected


def test_no_part_of_an_api_key_is_logged(
    alice_api: ContractClient,
    trigger: Standin,
    settings: Settings,
    clock: time_machine.Traveller,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    settings.AUTH_FAILURES_PER_MINUTE = settings.REQUESTS_PER_MINUTE = 2
    secret = "q7Zx-secret-part"
    request_statuses(with_key(f"recoup_sk_{secret}"), 5)
    for scheme in ("Bearer", "Basic", "bearer"):
        alice_api.get("/api/tasks", HTTP_AUTHORIZATION=f"{scheme} recoup_sk_{secret}", HTTP_X_API_KEY="")
    assert request_statuses(alice_api, 4)[-1] == 429
    assert secret not in caplog.text
