"""One run by id: how long it is cached, what Trigger.dev is asked, and what a foreign run costs."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.run_json import STATUSES
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.gateway import upstream
from tasks.gateway.quota import LOOKUPS_OF_ONE
from tasks.models import Run, RunOwner
from tasks.runs.copies import FINAL
from tests.cast import Cast, make_key
from tests.client import ContractClient, later, with_key
from tests.conftest import use_redis
from tests.tasks.runs.conftest import at_once

PATH = "/api/tasks/runs"
ONE_RUN = "GET /api/v3/runs/{id}"


@pytest.fixture
def tags(cast: Cast) -> list[str]:
    return [f"account:{cast.alice.pk}"]


def add_run(trigger: Standin, tags: list[str], **fields: Any) -> StandinRun:
    return trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=tags, **fields))


@pytest.mark.parametrize(("stuck_as", "most"), [(None, 1), ("EXECUTING", 31)])
def test_many_who_poll_a_run_cost_one_call_every_two_seconds(
    alice_api: ContractClient, trigger: Standin, tags: list[str], stuck_as: str | None, most: int
) -> None:
    tagged = add_run(trigger, tags, stuck_as=stuck_as)
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(60):
            for _ in range(5):
                assert alice_api.get(PATH, {"runId": tagged.id}).status_code == 200
            clock.shift(1)
    assert 1 <= trigger.asked[ONE_RUN] <= most


@pytest.mark.parametrize("stored", [name for name, status in STATUSES.items() if status.finished])
def test_a_final_run_is_cached_for_an_hour(
    alice_api: ContractClient, trigger: Standin, tags: list[str], stored: str
) -> None:
    assert STATUSES[stored].shown in FINAL
    run = add_run(trigger, tags, stuck_as=stored)
    alice_api.get(PATH, {"runId": run.id})
    for minutes, calls in ((59, 1), (61, 2)):
        with later(minutes=minutes):
            alice_api.get(PATH, {"runId": run.id})
        assert trigger.asked[ONE_RUN] == calls


@pytest.mark.django_db(transaction=True)
def test_many_readers_at_once_cost_one_call(
    crowd: list[APIClient], trigger: Standin, tags: list[str], settings: Settings
) -> None:
    all_are_here = threading.Event()

    def wait(request: Request) -> None:
        all_are_here.wait(0.3)

    trigger.before = wait
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 7, 1  # one lookup for each account
    tagged = add_run(trigger, tags)
    assert at_once(crowd, f"{PATH}?runId={tagged.id}") == [200] * len(crowd)
    assert trigger.asked[ONE_RUN] == 1


def test_a_finished_run_is_not_cached_for_long_while_a_related_one_runs(
    alice_api: ContractClient, trigger: Standin, tags: list[str]
) -> None:
    parent = add_run(trigger, tags, stuck_as="EXECUTING")
    child = add_run(trigger, tags, parent_id=parent.id)
    alice_api.get(PATH, {"runId": child.id})
    with later(minutes=1):
        alice_api.get(PATH, {"runId": child.id})
    assert trigger.asked[ONE_RUN] == 2


# --- What is stored on the way ---------------------------------------------------------------------------------------


def test_a_retrieved_run_is_stored_with_its_owners_and_listed(
    alice_api: ContractClient, cast: Cast, trigger: Standin, tags: list[str]
) -> None:
    run = add_run(trigger, tags, payload={"secret": 1})
    alice_api.get(PATH, {"runId": run.id})
    assert RunOwner.objects.get(run=run.id).account_id == cast.alice.pk
    assert "secret" not in Run.objects.get().data
    trigger.faults.add(Fault("hang"))
    with later(hours=2):
        response = alice_api.get(PATH, {"runId": run.id})
    assert (response.status_code, response.json()["runs_status"]) == (200, "stale")


def test_what_a_lookup_sees_lists_show_too(alice_api: ContractClient, trigger: Standin, tags: list[str]) -> None:
    run = add_run(trigger, tags, ends_after=120)
    with time_machine.travel(timezone.now(), tick=False) as clock:
        assert [one["status"] for one in alice_api.get(PATH).json()["runs"]] == ["EXECUTING"]
        clock.shift(22)
        trigger.asked.clear()
        assert alice_api.get(PATH, {"runId": run.id}).json()["runs"][0]["status"] == "COMPLETED"
        assert [one["status"] for one in alice_api.get(PATH).json()["runs"]] == ["COMPLETED"]


@pytest.mark.parametrize("data", ["{", '{"id": NaN}'])
def test_a_damaged_row_is_no_answer(alice_api: ContractClient, trigger: Standin, tags: list[str], data: str) -> None:
    run = add_run(trigger, tags)
    alice_api.get(PATH, {"runId": run.id})
    Run.objects.update(data=data)
    trigger.faults.add(Fault("hang"))
    with later(hours=2):
        assert alice_api.get(PATH, {"runId": run.id}).status_code == 500


def test_a_run_of_nobody_is_not_stored(dora_api: ContractClient, trigger: Standin) -> None:
    run = add_run(trigger, [])
    assert dora_api.get(PATH, {"runId": run.id}).status_code == 200
    assert not Run.objects.exists()


# --- Whose it is -----------------------------------------------------------------------------------------------------


def test_a_foreign_run_costs_and_says_what_an_unknown_one_does(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    """Asked for twice, and again while Trigger.dev fails; the foreign one is cached and stored for its owner."""
    foreign = add_run(trigger, [f"account:{cast.charlie.pk}"])
    with_key(make_key(cast.charlie)).get(PATH, {"runId": foreign.id})
    costs = []
    for run_id in (foreign.id, "run_unknown"):
        trigger.faults.clear()
        trigger.asked.clear()
        statuses = [alice_api.get(PATH, {"runId": run_id}).status_code for _ in range(2)]
        trigger.faults.add(Fault("status", status=500))
        statuses.append(alice_api.get(PATH, {"runId": run_id}).status_code)
        with later(seconds=9):
            statuses.append(alice_api.get(PATH, {"runId": run_id}).status_code)
        costs.append((statuses, trigger.asked["all"]))
    assert costs[0] == costs[1] == ([404, 404, 404, 500], 3)


def test_who_looks_up_too_many_runs_gets_a_429_and_leaves_the_others_theirs(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 100, 1
    own = add_run(trigger, [f"account:{cast.alice.pk}"])
    statuses = [alice_api.get(PATH, {"runId": f"run_{number}"}).status_code for number in range(20)]
    permitted = int(100 * LOOKUPS_OF_ONE)
    assert statuses == [404] * permitted + [429] * (20 - permitted)
    response = alice_api.get(PATH, {"runId": own.id})
    assert response.status_code == 429
    assert 1 <= int(response["Retry-After"]) <= 120
    assert trigger.asked["all"] == permitted
    assert with_key(make_key(cast.bob)).get(PATH, {"runId": own.id}).status_code == 200
    clock.shift(timedelta(minutes=2))
    assert alice_api.get(PATH, {"runId": own.id}).status_code == 200


# --- With Redis -------------------------------------------------------------------------------------------------------


def test_a_redis_that_is_away_fails_nothing(
    alice_api: ContractClient, trigger: Standin, tags: list[str], settings: Settings
) -> None:
    use_redis(settings, "redis://127.0.0.1:1/0")
    tagged = add_run(trigger, tags)
    for _ in range(2):
        assert alice_api.get(PATH, {"runId": tagged.id}).json()["runs_status"] == "fresh"
    assert trigger.asked[ONE_RUN] == 1, "the process uses its own memory"
    assert alice_api.get(f"{PATH}?runId=run_unknown").status_code == 404


@pytest.mark.usefixtures("redis")
def test_what_one_process_knows_the_other_does_not_ask(
    alice_api: ContractClient, trigger: Standin, tags: list[str]
) -> None:
    path = f"{PATH}?runId={add_run(trigger, tags).id}"
    first = alice_api.get(path).json()
    upstream.finish()  # nothing of this process is left but what Redis has
    trigger.asked.clear()
    assert (alice_api.get(path).json(), trigger.asked["all"]) == (first, 0)
