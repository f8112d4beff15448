"""Whether it lives, whether it can serve, and what can be counted of it."""

import threading
from datetime import datetime
from typing import Any

import pytest
import time_machine
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from pytest_django import Settings

from demo.standin.faults import Fault
from demo.standin.standin import Standin
from recoup.health import Readiness, check_migrations, readiness
from tasks.gateway import upstream
from tasks.trigger import errors
from tests.cast import Cast, make_task
from tests.client import ContractClient
from tests.conftest import use_redis


@pytest.fixture(autouse=True)
def nothing_is_known() -> None:
    readiness.cache_clear()


def down(*args: Any) -> None:
    raise DatabaseError("password=hunter2")


def test_it_lives_whatever_else_does(db: None, client: Client) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_a_probe_needs_no_host_of_ours_and_no_tls(db: None, client: Client, settings: Settings) -> None:
    settings.ALLOWED_HOSTS, settings.SECURE_SSL_REDIRECT = ["api.example.org"], True
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path, headers={"host": "10.1.2.3:8000"}).status_code == 200


def test_it_is_ready_and_tells_of_the_backlog(db: None, client: Client, cast: Cast) -> None:
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
            "unsettled_tasks": 1,
        },
    )


def test_without_its_database_it_is_not_ready_and_says_no_more(db: None, client: Client) -> None:
    with connection.execute_wrapper(down):
        response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["database"] == "failed"
    assert "hunter2" not in response.content.decode()


def test_without_a_migration_it_is_not_ready(db: None, client: Client) -> None:
    check_migrations.cache_clear()
    MigrationRecorder(connection).migration_qs.filter(app="tasks").order_by("-pk")[0].delete()
    response = client.get("/readyz")
    assert (response.status_code, response.json()["migrations"]) == (503, "failed")
    check_migrations.cache_clear()


def test_without_its_cache_it_is_not_ready(db: None, client: Client, settings: Settings) -> None:
    use_redis(settings, "redis://127.0.0.1:1/0")
    response = client.get("/readyz")
    assert (response.status_code, response.json()["cache"], response.json()["database"]) == (503, "failed", "ok")


@time_machine.travel(datetime.fromisoformat("2026-11-24T12:00:00+00:00"), tick=False)
def test_trigger_being_away_is_told_and_it_stays_ready(db: None, client: Client, trigger: Standin) -> None:
    for fault, times, told in (
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
        assert (response.status_code, response.json()["trigger"]) == (200, told)


def test_many_probes_at_once_are_one_check(db: None, client: Client) -> None:
    asked = list[str]()

    def count(execute: Any, sql: str, *arguments: Any) -> Any:
        asked.append(sql)
        return execute(sql, *arguments)

    with connection.execute_wrapper(count):
        assert {client.get("/readyz").status_code for _ in range(5)} == {200}
    assert asked.count("SELECT 1") == 1


def test_a_backlog_that_cannot_be_counted_is_no_500(db: None, client: Client) -> None:
    def fail(execute: Any, sql: str, *arguments: Any) -> Any:
        return down() if "COUNT" in sql else execute(sql, *arguments)

    with connection.execute_wrapper(fail):
        response = client.get("/readyz")
    assert (response.status_code, response.json()["database"]) == (503, "failed")


class Probing(threading.Thread):
    """A probe in a thread of its own, whose check begins and is held."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__(daemon=True)
        self.readiness, self.status = readiness, 0
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()

    def run(self) -> None:
        with connection.execute_wrapper(self.hold):
            self.status = self.readiness.answer().status_code
        connection.close()

    def hold(self, execute: Any, *arguments: Any) -> Any:
        self.has_begun.set()
        self.may_go_on.wait(10)
        return execute(*arguments)


@pytest.mark.django_db(transaction=True)
def test_who_comes_during_the_first_check_is_told_what_it_says() -> None:
    """As after a pause in which nobody asked: a service that is well is not taken out of the balance."""
    first, late = (Probing(shared) for shared in [Readiness(patience=10)] * 2)
    first.start()
    assert first.has_begun.wait(10)
    late.start()
    late.join(0.2)
    first.may_go_on.set()
    for one in (first, late):
        one.join(10)
    assert (first.status, late.status, late.has_begun.is_set()) == (200, 200, False)


@pytest.mark.django_db(transaction=True)
def test_while_a_check_hangs_others_are_told_that_nothing_is_known() -> None:
    readiness = Readiness(patience=0.01)
    first = Probing(readiness)
    first.start()
    assert first.has_begun.wait(10)
    assert readiness.answer().status_code == 503
    first.may_go_on.set()
    first.join(10)
    assert (first.status, readiness.answer().status_code) == (200, 200)


# --- Metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_count_requests_and_calls(alice_api: ContractClient, client: Client) -> None:
    alice_api.get("/api/tasks/runs")
    text = client.get("/metrics").content.decode()
    assert 'recoup_trigger_calls_total{outcome="answered",route="runs"}' in text
    assert 'django_http_responses_total_by_status_view_method_total{method="GET",status="200",view="task-runs"}' in text


def test_a_method_that_somebody_made_up_is_no_new_series(db: None, client: Client) -> None:
    for number in range(3):
        client.generic(f"MADEUP{number}", "/api/tasks")
    assert "MADEUP" not in client.get("/metrics").content.decode()


@pytest.mark.parametrize(
    ("token", "sent", "is_local", "status"),
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
def test_who_may_read_the_metrics(
    db: None, client: Client, settings: Settings, token: str, sent: str, is_local: bool, status: int
) -> None:
    settings.METRICS_TOKEN, settings.TRIGGER_IS_LOCAL = token, is_local
    assert client.get("/metrics", headers={"authorization": sent}).status_code == status
