"""The health check /healthz, the readiness check /readyz, and the metrics."""

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from recoup.backlog import Backlog
from recoup.health import Readiness, check_migrations, readiness
from tasks.gateway import upstream
from tasks.gateway.environment import check_environment
from tasks.trigger import errors
from tests.cast import Cast, make_task
from tests.client import ContractClient
from tests.conftest import use_redis


@pytest.fixture(autouse=True)
def empty_readiness_cache() -> None:
    readiness.cache_clear()


def raise_database_error(*args: Any) -> None:
    raise DatabaseError("password=hunter2")


def test_the_health_check_is_always_ok(db: None, client: Client) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_probes_work_with_any_host_and_without_tls(db: None, client: Client, settings: Settings) -> None:
    settings.ALLOWED_HOSTS, settings.SECURE_SSL_REDIRECT = ["api.example.org"], True
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path, headers={"host": "10.1.2.3:8000"}).status_code == 200


def test_readiness_reports_the_backlog_of_unsettled_tasks(db: None, client: Client, cast: Cast) -> None:
    make_task(cast.alice, cast.artist)
    make_task(cast.alice, cast.artist, synced_generation=0)
    response = client.get("/readyz")
    assert (response.status_code, response.json()) == (
        200,
        {
            "status": "ready",
            "database": "ok",
            "migrations": "ok",
            "cache": "ok",
            "trigger": {"status": "ok"},
            "last_full_pass": "never",
            "unsettled_tasks": 1,
        },
    )


def test_readiness_fails_without_the_database_and_leaks_no_password(db: None, client: Client) -> None:
    with connection.execute_wrapper(raise_database_error):
        response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["database"] == "failed"
    assert "hunter2" not in response.content.decode()


def test_readiness_fails_with_an_unapplied_migration(db: None, client: Client) -> None:
    check_migrations.cache_clear()
    MigrationRecorder(connection).migration_qs.filter(app="tasks").order_by("-pk")[0].delete()
    response = client.get("/readyz")
    assert (response.status_code, response.json()["migrations"]) == (503, "failed")
    check_migrations.cache_clear()


def test_readiness_stays_without_redis_and_says_so(db: None, client: Client, settings: Settings) -> None:
    use_redis(settings, "redis://127.0.0.1:1/0")
    response = client.get("/readyz")
    assert (response.status_code, response.json()["cache"]) == (200, "Redis is away, each process uses its own memory")


def test_readiness_says_that_redis_answers(db: None, client: Client, redis: None) -> None:
    assert client.get("/readyz").json()["cache"] == "ok"


def test_readiness_says_that_another_environment_must_be_accepted(
    db: None, client: Client, trigger: Standin, settings: Settings
) -> None:
    check_environment(at=timezone.now())
    settings.TRIGGER_SECRET_KEY = "tr_prod_other"
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert "accept_trigger_environment" in answer.json()["trigger"]["status"]


def test_readiness_says_that_the_key_is_refused(db: None, client: Client, trigger: Standin, settings: Settings) -> None:
    settings.TRIGGER_SECRET_KEY = "tr_prod_wrong"
    assert client.get("/readyz").json()["trigger"] == {"status": "the secret key is refused"}


def test_readiness_says_that_trigger_is_not_reached(
    db: None, client: Client, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_API_URL = "http://127.0.0.1:1"
    assert client.get("/readyz").json()["trigger"] == {"status": "Trigger.dev cannot be reached"}


def test_readiness_does_not_call_an_old_answer_the_present_one(
    db: None, client: Client, trigger: Standin, clock: time_machine.Traveller
) -> None:
    assert client.get("/readyz").json()["trigger"] == {"status": "ok"}
    clock.shift(3600)
    readiness.cache_clear()
    trigger.faults.add(Fault("hang"))
    assert client.get("/readyz").json()["trigger"] == {"status": "Trigger.dev did not answer in time"}
    answers = threading.Event()

    def wait_for_release(request: Request) -> None:
        answers.wait(10)

    trigger.before = wait_for_release
    clock.shift(3600)
    readiness.cache_clear()
    assert client.get("/readyz").json()["trigger"] == {"status": "no answer yet"}
    answers.set()


def test_readiness_asks_trigger_only_where_the_last_answer_is_old(
    db: None, client: Client, trigger: Standin, clock: time_machine.Traveller
) -> None:
    for seconds, expected in ((0, 1), (29, 1), (2, 2)):
        clock.shift(seconds)
        readiness.cache_clear()
        assert client.get("/readyz").json()["trigger"] == {"status": "ok"}
        assert trigger.asked["all"] == expected


@time_machine.travel(datetime.fromisoformat("2026-11-24T12:00:00+00:00"), tick=False)
def test_readiness_reports_a_trigger_outage_and_stays_ready(db: None, client: Client, trigger: Standin) -> None:
    for fault, times, expected in (
        (Fault("hang"), 5, {"status": "circuit breaker open"}),
        (Fault("rate_limit", seconds=9), 1, {"status": "rate limited", "seconds": 9.0}),
    ):
        readiness.cache_clear()
        upstream.gate.cache_clear()
        upstream.client.cache_clear()
        trigger.faults.clear()
        trigger.faults.add(fault)
        for _ in range(times):
            with pytest.raises(errors.TriggerError):
                upstream.client().retrieve_run("run_x", deadline=upstream.deadline_from_now())
        response = client.get("/readyz")
        assert (response.status_code, response.json()["trigger"]) == (200, expected)


def test_several_readiness_probes_share_one_check(db: None, client: Client) -> None:
    queries = list[str]()

    def record_query(execute: Any, sql: str, *arguments: Any) -> Any:
        queries.append(sql)
        return execute(sql, *arguments)

    with connection.execute_wrapper(record_query):
        assert {client.get("/readyz").status_code for _ in range(5)} == {200}
    assert queries.count("SELECT 1") == 1


def test_a_failed_backlog_count_is_a_503_and_not_a_500(db: None, client: Client) -> None:
    def fail_count_queries(execute: Any, sql: str, *arguments: Any) -> Any:
        return raise_database_error() if "COUNT" in sql else execute(sql, *arguments)

    with connection.execute_wrapper(fail_count_queries):
        response = client.get("/readyz")
    assert (response.status_code, response.json()["database"]) == (503, "failed")


class ProbeThread(threading.Thread):
    """A readiness probe in its own thread. Its database check waits until `may_continue` is set."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__(daemon=True)
        self.readiness, self.status = readiness, 0
        self.has_started, self.may_continue = threading.Event(), threading.Event()

    def run(self) -> None:
        with connection.execute_wrapper(self.wait_for_release):
            self.status = self.readiness.answer().status_code
        connection.close()

    def wait_for_release(self, execute: Any, *arguments: Any) -> Any:
        self.has_started.set()
        self.may_continue.wait(10)
        return execute(*arguments)


@pytest.mark.django_db(transaction=True)
def test_a_probe_during_the_first_check_waits_for_its_result() -> None:
    """Otherwise a load balancer would remove a healthy service after a period without probes."""
    first, second = (ProbeThread(shared) for shared in [Readiness(patience=10)] * 2)
    first.start()
    assert first.has_started.wait(10)
    second.start()
    second.join(0.2)
    first.may_continue.set()
    for probe in (first, second):
        probe.join(10)
    assert (first.status, second.status, second.has_started.is_set()) == (200, 200, False)


@pytest.mark.django_db(transaction=True)
def test_while_the_first_check_hangs_other_probes_get_a_503() -> None:
    readiness = Readiness(patience=0.01)
    first = ProbeThread(readiness)
    first.start()
    assert first.has_started.wait(10)
    assert readiness.answer().status_code == 503
    first.may_continue.set()
    first.join(10)
    assert (first.status, readiness.answer().status_code) == (200, 200)


# --- Metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_count_requests_and_calls(alice_api: ContractClient, client: Client) -> None:
    alice_api.get("/api/tasks/runs")
    text = client.get("/metrics").content.decode()
    assert 'recoup_trigger_calls_total{outcome="answered",route="runs"}' in text
    assert 'django_http_responses_total_by_status_view_method_total{method="GET",status="200",view="task-runs"}' in text


def test_metrics_tell_what_waits_and_for_how_long(db: None, cast: Cast) -> None:
    at = timezone.now()
    make_task(cast.alice, cast.artist, synced_generation=0, next_poll_at=at - timedelta(minutes=5))
    with time_machine.travel(at + timedelta(minutes=2), tick=False):
        lines = Backlog().text().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert found["recoup_unsettled_tasks"] == found["recoup_overdue_polls"] == "1.0"
    assert 119 <= float(found["recoup_unsettled_age_seconds"]) <= 121
    assert 419 <= float(found["recoup_overdue_poll_age_seconds"]) <= 421
    assert found["recoup_full_pass_age_seconds"] == "+Inf"


def test_metrics_without_the_database_tell_the_rest(db: None, client: Client) -> None:
    with connection.execute_wrapper(raise_database_error):
        assert Backlog().text() == b""
        assert client.get("/metrics").status_code == 200


def test_an_unknown_http_method_adds_no_metrics_series(db: None, client: Client) -> None:
    for number in range(3):
        client.generic(f"MADEUP{number}", "/api/tasks")
    assert "MADEUP" not in client.get("/metrics").content.decode()


@pytest.mark.parametrize(
    ("token", "authorization", "is_local", "status"),
    [
        ("", "", True, 200),
        ("", "", False, 403),
        ("", "Bearer ", False, 403),
        ("secret", "", True, 401),
        ("secret", "Bearer wrong", False, 401),
        ("secret", "Bearer é", False, 401),
        ("secret", "Bearer secret", False, 200),
    ],
)
def test_metrics_need_the_bearer_token_or_a_local_trigger(
    db: None, client: Client, settings: Settings, token: str, authorization: str, is_local: bool, status: int
) -> None:
    settings.METRICS_TOKEN, settings.IS_DEVELOPMENT = token, is_local
    assert client.get("/metrics", headers={"authorization": authorization}).status_code == status
