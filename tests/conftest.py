import fcntl
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import requests
import responses
import time_machine
from django.core.cache import cache
from django_prometheus.middleware import Metrics
from pytest_django import Settings

from core import rate_limits
from demo.standin.messages import Reply, Request
from demo.standin.standin import Standin, failed
from demo.standin.state import State
from tasks.gateway import upstream
from tasks.runs import steps, waiting
from tests.cast import Cast, make_cast, make_key
from tests.client import ContractClient, with_key
from tests.leaks import Leaks

TRIGGER_URL = "http://trigger.test"
TRIGGER_KEY = "tr_prod_tests"
PROD = {"id": "cmenvprod0000000000000001", "name": "prod"}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what tests recorded with `record_property`: their seed and measurements, also when they pass."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for _, text in report.user_properties:
                    terminalreporter.write_line(text)


@pytest.fixture(autouse=True, scope="session")
def request_metrics() -> None:
    """Made once: django-prometheus makes them at the first request, and two threads at once would make them twice."""
    Metrics.get_instance()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """After every test: nothing secret was logged or stored in an event."""
    leaks = Leaks()
    leaks.start()
    yield
    leaks.stop()
    assert leaks.found() == []


@pytest.fixture(autouse=True)
def trigger(settings: Settings) -> Iterator[Standin]:
    """The Trigger.dev stand-in behind a mock of `requests`. Any other HTTP request fails the test."""
    settings.TRIGGER_API_URL, settings.TRIGGER_SECRET_KEY = TRIGGER_URL, TRIGGER_KEY
    settings.IS_DEVELOPMENT = True
    settings.USE_DATABASE_CLOCK = False
    # A real hash costs a third of a second for every member of staff that a test makes.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.WHITENOISE_USE_FINDERS = False  # otherwise each client scans all static files
    standin = Standin(State(), {TRIGGER_KEY: PROD})
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for method in ("GET", "POST", "PUT", "DELETE"):
            mock.add_callback(method, re.compile(re.escape(TRIGGER_URL) + "/.*"), callback=callback_for(standin))
        yield standin
        waiting.waiting().finish()
        waiting.waiting.cache_clear()
        steps.finish()
        upstream.finish()
    cache.clear()
    rate_limits.clear()
    standin.state.close()


def callback_for(standin: Standin) -> Callable[[requests.PreparedRequest], Any]:
    def callback(prepared: requests.PreparedRequest) -> Any:
        body = prepared.body or b""
        request = Request(
            str(prepared.method),
            prepared.path_url,
            dict(prepared.headers),
            body.encode() if isinstance(body, str) else bytes(body),
        )
        standin.before(request)
        fault = standin.meet(request)
        if fault is None:
            reply = as_tuple(standin.answer(request))
            standin.after(request)
            return reply
        if fault.kind in ("status", "rate_limit", "garbage"):
            return as_tuple(failed(standin, fault))
        if fault.kind == "reset":
            standin.answer(request)
            raise requests.ConnectionError("Connection reset by peer")
        if fault.kind == "late":
            standin.late.append(request)
        raise requests.ReadTimeout("Read timed out")

    return callback


def as_tuple(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    return reply.status, {**reply.headers, "content-type": reply.content_type}, reply.body


@pytest.fixture
def cast(db: None) -> Cast:
    return make_cast()


@pytest.fixture
def alice_api(cast: Cast) -> ContractClient:
    return with_key(make_key(cast.alice))


@pytest.fixture
def dora_api(cast: Cast) -> ContractClient:
    return with_key(make_key(cast.dora))


@pytest.fixture
def anonymous_api(db: None) -> ContractClient:
    return ContractClient()


def use_redis(settings: Settings, url: str) -> None:
    settings.CACHE_IS_SHARED = True
    settings.CACHES = {"default": {"BACKEND": "core.cache.TolerantRedisCache", "LOCATION": url}}


@pytest.fixture
def redis(settings: Settings) -> Iterator[None]:
    """The Redis at TEST_REDIS_URL, which is emptied. A file lock gives it to one test process at a time."""
    if "TEST_REDIS_URL" not in os.environ:
        pytest.skip("TEST_REDIS_URL is not set")
    local_caches = settings.CACHES
    settings.VAR_DIR.mkdir(exist_ok=True)
    with (settings.VAR_DIR / "test-redis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        use_redis(settings, os.environ["TEST_REDIS_URL"])
        cache.clear()
        yield
        upstream.finish()
        settings.CACHES, settings.CACHE_IS_SHARED = local_caches, False


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A clock that is stopped at the start of a minute. The test moves it."""
    with time_machine.travel(datetime.fromisoformat("2026-11-24T12:00:00+00:00"), tick=False) as traveller:
        yield traveller
