"""Stored runs as GET /api/tasks shows them: when Trigger.dev is asked, and what is said of their freshness."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connections
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.gateway import upstream
from tasks.models import Task
from tasks.runs import steps
from tests.cast import Cast, make_task
from tests.client import ContractClient, later

RUNS = "GET /api/v1/runs"


@pytest.fixture
def task(cast: Cast) -> Task:
    """Daily; it fires twelve hours from now."""
    hour = (timezone.now().hour + 12) % 24
    return make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", schedule=f"0 {hour} * * *")


@pytest.fixture
def every_minute(cast: Cast) -> Task:
    return make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", schedule="* * * * *")


def add_run(trigger: Standin, task: Task, *, age: float = 43_000, **fields: Any) -> StandinRun:
    schedule = {"id": task.trigger_schedule_id, "externalId": str(task.pk)}
    made = {"created": trigger.state.now - age, "schedule": schedule, "kind": "SCHEDULED", **fields}
    return trigger.state.add_run(StandinRun("customer-prompt-task", **made))


def shown(api: APIClient) -> Any:
    (task,) = api.get("/api/tasks").json()["tasks"]
    return task


# --- What a read asks ------------------------------------------------------------------------------------------------


def test_between_its_fires_a_task_is_fresh_and_asks_nothing(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    run = add_run(trigger, task)
    assert [shown_run["id"] for shown_run in shown(alice_api)["recent_runs"]] == [run.id]
    assert trigger.asked["all"] == 1, "the first poll"
    for minutes in (1, 4, 60, 180):
        with later(minutes=minutes):
            after = shown(alice_api)
            assert (after["runs_status"], len(after["recent_runs"])) == ("fresh", 1)
    assert trigger.asked["all"] == 1


def test_a_task_without_schedule_and_runs_is_fresh_and_never_polled(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist)
    assert (shown(alice_api)["runs_status"], trigger.asked["all"]) == ("fresh", 0)


def test_without_a_worker_overdue_runs_are_shown_as_stale_and_polled_in_the_background(
    alice_api: ContractClient, every_minute: Task, trigger: Standin
) -> None:
    shown(alice_api)
    with later(minutes=6):
        run = add_run(trigger, every_minute, age=1)
        before, after = shown(alice_api), shown(alice_api)
    assert (before["runs_status"], before["recent_runs"]) == ("stale", [])
    assert (after["runs_status"], after["recent_runs"][0]["id"]) == ("fresh", run.id)


def test_many_reads_without_a_worker_cost_no_more_than_the_schedule(
    alice_api: ContractClient, every_minute: Task, trigger: Standin
) -> None:
    """After each fire a watched task is polled until its run has ended, and then not before the next."""
    with time_machine.travel(timezone.now().replace(second=30), tick=False) as clock:
        shown(alice_api)
        trigger.asked.clear()
        for _ in range(300):
            clock.shift(1)
            if timezone.now().second == 0:
                add_run(trigger, every_minute, age=0)
            shown(alice_api)
    assert 5 <= trigger.asked[RUNS] <= 25
    assert Task.objects.get().runs.count() == 5


def test_fifty_first_polls_are_fifty_calls_once(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    settings.REQUEST_DEADLINE = 60.0  # also on a busy machine
    for number in range(50):
        add_run(trigger, make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}"))
    for _ in range(3):
        tasks = alice_api.get("/api/tasks").json()["tasks"]
        assert {(task["runs_status"], len(task["recent_runs"])) for task in tasks} == {("fresh", 1)}
    assert trigger.asked == {"all": 50, RUNS: 50}


def test_a_first_poll_that_failed_is_not_repeated_by_every_read(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    trigger.faults.add(Fault("status", status=500))
    assert shown(alice_api)["runs_status"] == "unavailable"
    asked = trigger.asked[RUNS]
    assert {shown(alice_api)["runs_status"] for _ in range(5)} == {"unavailable"}
    assert trigger.asked[RUNS] == asked
    trigger.faults.clear()
    with later(minutes=2):
        shown(alice_api)
        assert shown(alice_api)["runs_status"] == "fresh"


def test_a_run_that_was_started_is_shown_at_once_and_followed_to_its_end(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    shown(alice_api)
    (started,) = alice_api.post("/api/tasks/runs", {"id": str(task.pk)}, format="json").json()["runs"]
    (run,) = shown(alice_api)["recent_runs"]
    assert (run["id"], run["status"]) == (started["id"], "QUEUED")
    with later(seconds=30):
        shown(alice_api)
        (run,) = shown(alice_api)["recent_runs"]
    assert (run["id"], run["status"]) == (started["id"], "COMPLETED")


@pytest.mark.parametrize("status", ["EXECUTING", "PAUSED"])
def test_an_unfinished_run_makes_its_task_stale_when_nobody_polls_it(
    alice_api: ContractClient, task: Task, trigger: Standin, status: str
) -> None:
    add_run(trigger, task, stuck_as=status)
    assert shown(alice_api)["runs_status"] == "fresh"
    with later(minutes=1):
        assert shown(alice_api)["runs_status"] == "stale"
        assert shown(alice_api)["runs_status"] == "fresh", "the read before has polled it in the background"


# --- Many readers, with threads -------------------------------------------------------------------------------------


def read(client: APIClient) -> str:
    try:
        return str(shown(client)["runs_status"])
    finally:
        connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_many_readers_share_the_first_poll(crowd: list[APIClient], task: Task, trigger: Standin) -> None:
    barrier = threading.Barrier(len(crowd))

    def read_together(client: APIClient) -> str:
        barrier.wait(10)
        return read(client)

    def hold(request: Request) -> None:
        threading.Event().wait(0.3)

    trigger.before = hold
    with ThreadPoolExecutor(len(crowd)) as pool:
        statuses = list(pool.map(read_together, crowd))
    assert (set(statuses), trigger.asked["all"]) == ({"fresh"}, 1)


@pytest.mark.django_db(transaction=True)
def test_one_step_in_the_background_serves_many_readers(
    crowd: list[APIClient], every_minute: Task, trigger: Standin
) -> None:
    read(crowd[0])
    with later(minutes=6):
        run = add_run(trigger, every_minute, age=1)
        assert read(crowd[0]) == "stale"
        for client in crowd[1:]:
            read(client)
        steps.background().join()
        (only,) = shown(crowd[0])["recent_runs"]
    assert (only["id"], trigger.asked["all"]) == (run.id, 2)


@pytest.mark.django_db(transaction=True)
def test_a_hanging_trigger_leaves_no_queue_behind(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    for number in range(80):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    trigger.faults.add(Fault("hang"))
    tasks = alice_api.get("/api/tasks").json()["tasks"]
    assert {task["runs_status"] for task in tasks} == {"unavailable"}
    trigger.faults.clear()
    steps.finish()
    for minutes in (2, 4):
        with later(minutes=minutes):
            alice_api.get("/api/tasks")
            steps.background().join()
            steps.finish()
            upstream.finish()
    with later(minutes=4):
        tasks = alice_api.get("/api/tasks").json()["tasks"]
    assert {task["runs_status"] for task in tasks} == {"fresh"}


@pytest.mark.django_db(transaction=True)
def test_a_list_is_shown_where_no_thread_can_be_started(
    alice_api: ContractClient, cast: Cast, trigger: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    alice_api.get("/api/tasks")
    Task.objects.update(next_poll_at=timezone.now() - timedelta(minutes=5))
    steps.finish()
    steps.background.cache_clear()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        make_task(cast.alice, cast.artist, trigger_schedule_id="sched_b")
        assert alice_api.get("/api/tasks").status_code == 200
