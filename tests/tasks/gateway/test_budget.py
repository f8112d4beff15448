"""Our budget of calls: whose they are, and what looking for a run costs that may not be there."""

import threading
from typing import Any

import pytest
import time_machine
from django.db import connection
from pytest_django import Settings

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.gateway import upstream
from tasks.gateway.breaker import PAUSE
from tasks.gateway.budget import LOOKUPS_PER_MINUTE, paid_by, payer
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key
from tests.contract.validation import generated
from tests.trigger_calls import call_trigger

PATH = "/api/tasks/runs"


# --- The budget ------------------------------------------------------------------------------------------------------


def test_no_more_is_asked_than_the_budget_of_a_minute(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 20, 2
    assert [call_trigger() for _ in range(12)] == ["answered"] * 10 + ["NotSent"] * 2
    clock.shift(90)
    assert [call_trigger() for _ in range(7)] == ["answered"] * 5 + ["NotSent"] * 2, (
        "half of the former minute still counts"
    )


def test_one_payer_has_half_of_it_and_leaves_the_others_theirs(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 20, 1
    with paid_by("greedy"):
        assert [call_trigger() for _ in range(12)] == ["answered"] * 10 + ["QuotaExceeded"] * 2
    with paid_by("modest"):
        assert call_trigger() == "answered"


def test_a_request_is_paid_by_its_caller_and_nobody_after_it(
    cast: Cast, alice_api: ContractClient, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 10, 1
    statuses = [alice_api.get(PATH, {"limit": limit}).status_code for limit in range(1, 8)]
    assert statuses == [200] * 5 + [429] * 2
    assert payer.get() is None
    assert with_key(make_key(cast.bob)).get(PATH).status_code == 200


def test_what_one_asks_beyond_its_share_is_unavailable_and_not_empty(
    cast: Cast, alice_api: ContractClient, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 10, 1
    for number in range(8):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    shown = [task["runs_status"] for task in alice_api.get("/api/tasks").json()["tasks"]]
    assert sorted(shown) == ["fresh"] * 5 + ["unavailable"] * 3


# --- Runs that are not there -----------------------------------------------------------------------------------------


def spent() -> float:
    """Of the budget of this process, counted by what is left of it."""
    left = 0
    while call_trigger() == "answered":
        left += 1
    return 500 - left


def look(api: ContractClient, *names: str) -> list[int]:
    return [api.get(PATH, {"runId": f"run_{name}"}).status_code for name in names]


def add_runs(cast: Cast, trigger: Standin, count: int) -> list[str]:
    tags = [f"account:{cast.alice.pk}"]
    for number in range(count):
        trigger.state.add_run(StandinRun("t", trigger.state.now - 99, f"run_own{number}", tags=tags))
    return [f"own{number}" for number in range(count)]


MANY = [f"unknown{number}" for number in range(LOOKUPS_PER_MINUTE + 20)]


@pytest.mark.usefixtures("clock")
def test_runs_that_do_not_exist_cost_nothing_of_the_budget_and_end_in_a_429(
    alice_api: ContractClient, trigger: Standin
) -> None:
    trigger.rate_limit = 0
    assert look(alice_api, *MANY) == [404] * LOOKUPS_PER_MINUTE + [429] * 20
    assert trigger.asked["all"] == LOOKUPS_PER_MINUTE
    assert spent() == 0


@pytest.mark.usefixtures("clock")
def test_runs_that_are_there_are_not_looked_for_in_vain_and_come_out_of_share_and_budget(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    trigger.rate_limit = 0
    assert set(look(alice_api, *add_runs(cast, trigger, 130))) == {200}
    assert spent() == 130


@pytest.mark.usefixtures("clock")
def test_a_share_that_is_spent_looks_for_no_more_runs_either(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 40, 1
    assert look(alice_api, *add_runs(cast, trigger, 30)) == [200] * 20 + [429] * 10
    assert with_key(make_key(cast.charlie)).get(PATH).status_code == 200


@pytest.mark.usefixtures("clock")
def test_all_lookups_together_are_a_part_of_the_budget_at_most(
    cast: Cast, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 40, 1
    for person in (cast.alice, cast.bob, cast.charlie):
        look(with_key(make_key(person)), *MANY[:10])
    assert trigger.asked["all"] == 10
    assert [call_trigger() for _ in range(40)] == ["answered"] * 40


@pytest.mark.usefixtures("clock")
def test_who_has_looked_too_often_still_sees_its_own_known_runs(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    (own,) = add_runs(cast, trigger, 1)
    look(alice_api, own, *MANY)
    assert look(alice_api, own, "unknown") == [200, 429]
    assert look(with_key(make_key(cast.bob)), "unknown") == [404]


def test_what_was_looked_for_while_trigger_is_away_was_not_in_vain(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    own = add_runs(cast, trigger, 5)
    trigger.faults.add(Fault("hang"))
    assert set(look(alice_api, *MANY)) == {500}
    trigger.faults.clear()
    for _ in range(2):
        clock.shift(PAUSE)
        look(alice_api, "unknown")
        upstream.settle_down()
    assert look(alice_api, *own) == [200] * 5


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", ["status", "garbage"])
def test_runs_that_cannot_be_shown_are_looked_for_in_vain_too(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings, kind: Any
) -> None:
    """Their calls come out of what all lookups may cost: nobody has all of that, alone or with several workers."""
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 80, 2
    trigger.faults.add(Fault(kind, path="/api/v3/runs/run_broken*"))
    answers = []
    for number in range(10):
        answers += look(alice_api, f"broken{number}")
        upstream.settle_down()
    assert answers[-1] == 429
    assert look(with_key(make_key(cast.charlie)), "unknown") == [404]


@pytest.mark.parametrize(("most", "workers", "vain"), [(20, 1, 4), (40, 2, 4), (1000, 2, 100), (1000, 3, 66)])
def test_who_looks_in_vain_leaves_others_something_to_look_up_with(
    cast: Cast,
    alice_api: ContractClient,
    trigger: Standin,
    settings: Settings,
    clock: time_machine.Traveller,
    most: int,
    workers: int,
    vain: int,
) -> None:
    trigger.rate_limit = 0
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = most, workers
    assert look(alice_api, *MANY[: vain + 2]) == [404] * vain + [429] * 2
    assert look(with_key(make_key(cast.charlie)), "unknown") == [404]


@pytest.mark.django_db(transaction=True)
def test_those_who_look_at_once_pass_no_limit_together(
    alice_api: ContractClient, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 20, 1
    generated()  # not in several threads at once, which drf-spectacular does not bear
    hold, statuses = threading.Event(), list[int]()

    def wait(request: Request) -> None:
        hold.wait(10)

    def look_for(number: int) -> None:
        statuses.extend(look(alice_api, f"unknown{number}"))
        if statuses.count(429) == 4:
            hold.set()
        connection.close()

    trigger.before = wait
    crowd = [threading.Thread(target=look_for, args=(number,)) for number in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(20)
    assert sorted(statuses) == [404] * 4 + [429] * 4


@pytest.mark.usefixtures("clock")
def test_a_run_that_is_found_at_the_second_try_has_cost_two_calls(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    (own,) = add_runs(cast, trigger, 1)
    trigger.faults.add(Fault("status", times=1))
    assert look(alice_api, own) == [200]
    assert spent() == 2


@pytest.mark.usefixtures("clock")
def test_a_foreign_run_is_like_an_unknown_one_when_nothing_is_left_too(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    foreign = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=[f"account:{cast.charlie.pk}"]))
    with_key(make_key(cast.charlie)).get(PATH, {"runId": foreign.id})
    look(alice_api, *MANY)
    answers = [alice_api.get(PATH, {"runId": run}) for run in (foreign.id, "run_unknown")]
    assert [answer.status_code for answer in answers] == [429, 429]
    assert answers[0].content == answers[1].content


# --- With Redis -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("redis")
def test_the_budget_is_one_for_all_processes(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 20, 2
    first = [call_trigger() for _ in range(12)]
    upstream.finish()
    assert [*first, *(call_trigger() for _ in range(10))] == ["answered"] * 20 + ["NotSent"] * 2


@pytest.mark.usefixtures("redis")
def test_a_share_is_one_for_all_processes_too(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE = 20
    with paid_by("greedy"):
        assert [call_trigger() for _ in range(12)] == ["answered"] * 10 + ["QuotaExceeded"] * 2
