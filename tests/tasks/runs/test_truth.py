"""What the first version said wrongly, with replicas of Trigger.dev that lag behind."""

from random import Random
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from demo.standin import schedules
from demo.standin.faults import Fault
from demo.standin.replicas import Replicas
from demo.standin.standin import Standin
from tasks.models import Task
from tasks.runs import steps
from tasks.schedules.settling import settle_pending
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

TASKS, RUNS = "/api/tasks", "/api/tasks/runs"


@pytest.fixture
def lagging(trigger: Standin) -> Standin:
    trigger.state.replicas = Replicas(Random(1), drops=0.2)
    return trigger


def shown(api: ContractClient) -> dict[str, Any]:
    (task,) = api.get(TASKS).json()["tasks"]
    found: dict[str, Any] = task
    return found


def create(api: ContractClient, cast: Cast, **fields: Any) -> dict[str, Any]:
    body = {"title": "t", "prompt": "p", "artist_account_id": str(cast.artist.pk), **fields}
    response = api.post(TASKS, body, format="json")
    assert response.status_code == 200, response.content
    (task,) = response.json()["tasks"]
    found: dict[str, Any] = task
    return found


def test_a_run_that_was_started_is_in_both_lists_fifty_times(
    alice_api: ContractClient, cast: Cast, lagging: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    for _ in range(50):
        (run,) = alice_api.post(RUNS, {"id": str(task.pk)}, format="json").json()["runs"]
        for seconds in (0, 1, 3, 5):
            clock.shift(seconds)
            assert shown(alice_api)["recent_runs"][0]["id"] == run["id"]
            assert alice_api.get(RUNS).json()["runs"][0]["id"] == run["id"]
        clock.shift(30)
    for _ in range(4):
        clock.shift(5)
        body = alice_api.get(RUNS, {"limit": "100"}).json()
    assert len(body["runs"]) == 50
    assert {one["status"] for one in body["runs"]} == {"COMPLETED"}


@pytest.fixture
def dora(cast: Cast) -> ContractClient:
    """An admin, who may use any artist."""
    return with_key(make_key(cast.dora))


def test_an_old_cron_that_fires_once_after_an_edit_makes_no_wrong_times(
    dora: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """Trigger.dev fires up to 30 s before the time, so the run of the old cron is created after the edit."""
    task = create(dora, cast, schedule="* * * * *")
    clock.shift(40)
    schedules.fire_due(trigger.state, ahead=30)
    (edited,) = dora.patch(TASKS, {"id": task["id"], "schedule": "0 * * * *"}, format="json").json()["tasks"]
    clock.shift(25)
    dora.get(TASKS)
    after = shown(dora)
    assert (after["runs_status"], [run["createdAt"] for run in after["recent_runs"]]) == (
        "fresh",
        ["2026-11-24T12:01:00.000Z"],
    )
    assert after["upcoming"] == edited["upcoming"] == [f"2026-11-24T{hour}:00:00.000Z" for hour in range(13, 23)]
    for _ in range(10):
        clock.shift(360)
        assert shown(dora)["upcoming"][0] > timezone.now().isoformat()


def test_a_read_while_pending_is_not_fresh_past_a_fire_of_either_cron(
    dora: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = create(dora, cast, schedule="0 18 * * *")
    trigger.faults.add(Fault("status", status=500, path="/api/v1/schedules*"))
    (pending,) = dora.patch(TASKS, {"id": task["id"], "schedule": "2 12 * * *"}, format="json").json()["tasks"]
    assert pending["sync_status"] == "pending"
    shown(dora)
    trigger.faults.clear()
    clock.shift(70)
    settle_pending()
    assert shown(dora)["sync_status"] == "in_sync"
    clock.shift(45)
    schedules.fire_due(trigger.state, ahead=10)
    clock.shift(20)
    steps.run_steps()
    after = shown(dora)
    assert (after["runs_status"], len(after["recent_runs"])) == ("fresh", 1)


def test_a_fire_whose_run_is_not_listed_yet_is_not_fresh(
    dora: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    create(dora, cast, schedule="1 12 * * *")
    shown(dora)
    clock.shift(75)
    assert shown(dora)["runs_status"] == "stale"
    assert Task.objects.get().runs.count() == 0
    assert shown(dora)["runs_status"] == "fresh", "it was polled just now"
    clock.shift(15)
    assert shown(dora)["runs_status"] == "stale", "its run may have come since"


def test_runs_of_a_schedule_that_nobody_knows_yet_are_not_missing_from_a_fresh_list(
    dora: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """The answer to the create was lost, and Trigger.dev fails at schedules for fifteen minutes."""
    trigger.faults.add(Fault("reset", method="POST", path="/api/v1/schedules", times=1))
    create(dora, cast, schedule="* * * * *")
    trigger.faults.add(Fault("status", path="/api/v1/schedules*", status=500))
    statuses = []
    for step in range(120):
        clock.shift(10)
        schedules.fire_due(trigger.state)
        if step == 90:
            trigger.faults.clear()
        if step % 3 == 0:
            settle_pending()
        steps.run_steps()
        dora.get(TASKS)
        body = dora.get(RUNS, {"limit": "100"}).json()
        there = len(list(trigger.state.newest_runs(schedule_ids=[], tags=[], since=0)))
        assert body["runs_status"] != "fresh" or len(body["runs"]) >= there - 1
        statuses.append(body["runs_status"])
    assert statuses[-1] == "fresh"


def test_a_run_that_a_late_retry_has_started_is_not_missing_from_a_fresh_list(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """The same Idempotency-Key again after five minutes, and again the answer is lost."""
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")

    def post() -> int:
        body, headers = {"id": str(task.pk)}, {"Idempotency-Key": "k"}
        return alice_api.post(RUNS, body, format="json", headers=headers).status_code

    trigger.faults.add(Fault("hang", method="POST", path="*/trigger", times=2))
    assert post() != 200
    for _ in range(30):
        clock.shift(10)
        shown(alice_api)
        steps.run_steps()
    trigger.faults.clear()
    trigger.faults.add(Fault("late", method="POST", path="*/trigger"))
    assert post() != 200
    trigger.faults.clear()
    clock.shift(1)
    trigger.do_late()
    clock.shift(20)
    for _ in range(30):
        clock.shift(10)
        steps.run_steps()
        one = shown(alice_api)
        assert one["runs_status"] != "fresh" or len(one["recent_runs"]) == 1
    assert one["runs_status"] == "fresh"
