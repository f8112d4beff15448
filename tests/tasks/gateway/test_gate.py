"""Manners towards Trigger.dev: its 429, its failures, and what can be read of them."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import time_machine
from prometheus_client import REGISTRY
from pytest_django import Settings

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from tasks.gateway import upstream
from tasks.gateway.breaker import MAX_FAILURES, PAUSE, TRIAL_TIMEOUT
from tasks.models import Task
from tasks.trigger import errors
from tasks.trigger.client import PROBES, ROUTES
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key
from tests.questions import ask

RUNS = "GET /api/v1/runs"
PATH = "/api/tasks/runs"


def open_circuit(trigger: Standin, fault: Fault | None = None, *, calls: Sequence[str] = ("list_runs",)) -> None:
    """Fails until the circuit breakers of these calls are open."""
    trigger.faults.add(fault or Fault("hang"))
    for call in calls:
        for _ in range(MAX_FAILURES):
            ask(call)
    upstream.settle_down()
    trigger.asked.clear()


# --- Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hang", "reset", "status", "garbage"])
def test_after_failures_in_a_row_nothing_is_sent(trigger: Standin, clock: time_machine.Traveller, kind: Any) -> None:
    trigger.faults.add(Fault(kind))
    outcomes = []
    for _ in range(10):
        outcomes.append(ask())
        upstream.settle_down()  # with answers that are no good, one call tells whether all are
    assert outcomes[0] in ("TimedOut", "NotReached", "Failed", "BrokenAnswer")
    assert outcomes[5:] == ["CircuitOpen"] * 5
    assert trigger.asked["all"] <= MAX_FAILURES + len(PROBES)


def test_one_call_that_nobody_waits_for_finds_that_it_answers_again(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit(trigger)
    all_have_asked = threading.Event()

    def wait(request: Request) -> None:
        all_have_asked.wait(10)

    trigger.faults.clear()
    trigger.before = wait
    clock.shift(PAUSE)
    assert [ask() for _ in range(5)] == ["CircuitOpen"] * 5
    assert trigger.asked["all"] <= 1
    all_have_asked.set()
    upstream.settle_down()
    assert [ask(call) for call in ("list_runs", "retrieve_run", "retrieve_schedule")] == [
        "answered",
        "NotFound",
        "NotFound",
    ]


def test_while_it_goes_on_failing_it_is_tried_by_one_call_after_each_pause(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit(trigger)
    for _ in range(20):
        clock.shift(PAUSE / 2)
        ask()
        upstream.settle_down()
    assert 5 <= trigger.asked["all"] <= 10


def test_a_part_that_fails_leaves_the_other_parts_asked(trigger: Standin, clock: time_machine.Traveller) -> None:
    """As with ClickHouse down: lists fail, and single runs and schedules are answered."""
    trigger.faults.add(Fault("status", path="/api/v1/runs"))
    for _ in range(8):
        outcomes = (ask(), ask("retrieve_run"), ask("retrieve_schedule"))
        upstream.settle_down()
    assert outcomes == ("CircuitOpen", "NotFound", "NotFound")


def test_a_part_that_hangs_leaves_the_other_parts_asked_though_nothing_else_is_asked_meanwhile(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit(trigger, Fault("hang", path="/api/v1/runs"))
    for _ in range(10):
        assert ask() == "CircuitOpen"
        upstream.settle_down()
        clock.shift(PAUSE)
    assert (ask("retrieve_run"), ask("retrieve_schedule")) == ("NotFound", "NotFound")


def test_who_cannot_pay_for_trying_leaves_it_to_the_next(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 40, 1
    charlie = with_key(make_key(cast.charlie))
    alices, charlies = ({"id": str(make_task(who, cast.artist).pk)} for who in (cast.alice, cast.charlie))
    look_at_lists = [charlie.get(PATH, {"limit": limit}).status_code for limit in range(1, 25)]
    assert look_at_lists[-1] == 429
    trigger.faults.add(Fault("hang", method="POST"))
    for _ in range(MAX_FAILURES):
        alice_api.post(PATH, alices, format="json")
        upstream.settle_down()
    trigger.faults.clear()
    clock.shift(PAUSE)
    assert charlie.post(PATH, charlies, format="json").status_code == 429
    assert alice_api.post(PATH, alices, format="json").status_code == 200


def test_a_trial_that_had_no_time_leaves_it_to_the_next(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = {"id": str(make_task(cast.alice, cast.artist).pk)}
    trigger.faults.add(Fault("hang", method="POST"))
    for _ in range(MAX_FAILURES):
        alice_api.post(PATH, task, format="json")
        upstream.settle_down()
    clock.shift(PAUSE)
    with pytest.raises(errors.TimedOut):
        upstream.client().trigger_run(
            "t", payload={}, tags=[], idempotency_key="k", deadline=upstream.deadline_from_now() - 2.5
        )
    trigger.faults.clear()
    assert alice_api.post(PATH, task, format="json").status_code == 200


def test_a_kind_that_is_being_tried_is_not_tried_once_more(trigger: Standin, clock: time_machine.Traveller) -> None:
    """However long that takes, nothing piles up."""
    open_circuit(trigger, Fault("hang", path="/api/v1/runs"))
    hold, tried = threading.Event(), list[Request]()

    def wait(request: Request) -> None:
        tried.append(request)
        hold.wait(10)

    trigger.before = wait
    for _ in range(20):
        clock.shift(TRIAL_TIMEOUT)
        ask()
    hold.set()
    upstream.settle_down()
    assert len(tried) == 1


def test_while_one_kind_rests_the_others_are_still_asked_once_for_all_processes(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit(trigger, Fault("hang", path="/api/v1/runs"))
    refused = {route: upstream.gate().would_refuse(route) for route in ROUTES.values()}
    assert refused == {"runs": True, "run": False, "schedules": False, "trigger": False}


def test_one_run_that_trigger_cannot_show_leaves_the_others_shown(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """A stored output that is no JSON is a 500, each time it is asked for."""
    trigger.faults.add(Fault("status", path="*/run_poison"))
    for _ in range(10):
        alice_api.get(PATH, {"runId": "run_poison"})
        upstream.settle_down()
    assert with_key(make_key(cast.bob)).get(PATH, {"runId": "run_x"}).status_code == 404


def test_single_runs_whose_connections_are_reset_open_their_circuit_until_a_trial_succeeds(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit(trigger, Fault("reset", path="/api/v3/runs/run_x"), calls=("retrieve_run",))
    assert [ask("retrieve_run"), ask()] == ["CircuitOpen", "answered"]
    trigger.faults.clear()
    clock.shift(PAUSE)
    assert ask("retrieve_run") == "CircuitOpen"
    upstream.settle_down()
    assert ask("retrieve_run") == "NotFound"


def test_runs_can_be_started_again_once_trigger_is_well(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """There is no harmless call of that kind to try: a real one tells."""
    task = {"id": str(make_task(cast.alice, cast.artist).pk)}
    for fault in (Fault("status", method="POST"), Fault("hang", method="POST"), Fault("hang")):
        trigger.faults.add(fault)
        for _ in range(6):
            assert alice_api.post(PATH, task, format="json").status_code == 500
            upstream.settle_down()
        trigger.faults.clear()
        for _ in range(2):
            clock.shift(PAUSE)
            answer = alice_api.post(PATH, task, format="json")
            upstream.settle_down()
        assert answer.status_code == 200


def test_a_run_that_was_surely_not_started_says_so_and_when_to_try_again(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=17, times=1))
    ask()
    answer = alice_api.post(PATH, {"id": str(make_task(cast.alice, cast.artist).pk)}, format="json")
    assert (answer.status_code, answer["Retry-After"]) == (500, "17")
    assert answer.json()["error"].startswith("No run was started")


def test_a_timeout_of_a_call_that_had_no_time_says_nothing(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("hang"))
    for _ in range(20):
        with pytest.raises(errors.TimedOut):
            upstream.client().retrieve_run("run_x", deadline=upstream.deadline_from_now() - 2.5)
    assert trigger.asked["all"] == 20


def test_what_trigger_refuses_or_does_not_know_is_no_failure(trigger: Standin, clock: time_machine.Traveller) -> None:
    assert [ask("retrieve_run") for _ in range(10)] == ["NotFound"] * 10


def test_while_it_rests_a_list_says_what_is_known_at_once(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    alice_api.get("/api/tasks")
    open_circuit(trigger)
    clock.shift(1200)
    (task,) = alice_api.get("/api/tasks").json()["tasks"]
    upstream.settle_down()
    assert (task["runs_status"], trigger.asked[RUNS]) == ("stale", 1), "the one call is the one that tries again"


def test_while_it_rests_writes_stand_and_are_pending(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist)
    open_circuit(trigger, calls=("list_runs", "retrieve_schedule"))
    answer = alice_api.patch("/api/tasks", {"id": str(task.pk), "title": "New"}, format="json")
    assert (answer.status_code, answer.json()["tasks"][0]["sync_status"]) == (200, "pending")
    row = Task.objects.get()
    assert (trigger.asked["all"], row.unsettled_until, row.lease_until) == (0, None, None)


# --- 429 -------------------------------------------------------------------------------------------------------------


def test_after_a_429_nothing_is_sent_until_its_reset(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=7, times=1))
    assert [ask(), ask(), ask("retrieve_schedule")] == ["TooManyRequests", "NotSent", "NotSent"]
    clock.shift(6.9)
    assert (ask(), trigger.asked["all"]) == ("NotSent", 1)
    clock.shift(0.2)
    assert ask() == "answered"


def test_a_429_whose_reset_has_passed_stops_too(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=0))
    assert [ask() for _ in range(20)] == ["TooManyRequests"] + ["NotSent"] * 19
    clock.shift(1.1)
    assert ask() == "TooManyRequests"


def test_a_request_that_cannot_be_answered_until_then_says_when(
    alice_api: ContractClient, trigger: Standin, clock: time_machine.Traveller
) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=17, times=1))
    ask()
    clock.shift(5)
    response = alice_api.get(PATH)
    assert (response.status_code, response["Retry-After"], trigger.asked["all"]) == (500, "12", 1)


# --- What can be read of it ------------------------------------------------------------------------------------------


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("recoup_trigger_calls_total", {"route": "runs", "outcome": outcome}) or 0.0


def test_calls_are_counted_by_outcome(trigger: Standin, clock: time_machine.Traveller) -> None:
    before = {name: counted(name) for name in ("answered", "rate_limited", "until_reset")}
    trigger.faults.add(Fault("rate_limit", times=1))
    for _ in range(2):
        ask()
    clock.shift(20)
    ask()
    assert {name: counted(name) - before[name] for name in before} == dict.fromkeys(before, 1.0)


def test_a_line_in_the_log_says_each_minute_how_calls_ended(
    trigger: Standin, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tasks.gateway.gate")
    for name in ("list_runs", "list_runs", "retrieve_run"):
        ask(name)
    clock.shift(60)
    ask()
    assert [record.getMessage() for record in caplog.records] == [
        "Calls to Trigger.dev in one minute: 2 answered, 1 not_found"
    ]


def test_an_outage_is_a_line_when_it_begins_and_one_when_it_ends(
    trigger: Standin, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    open_circuit(trigger)
    for _ in range(30):
        ask()
    trigger.faults.clear()
    clock.shift(PAUSE)
    ask()
    upstream.settle_down()
    assert len(caplog.records) == 2


# --- With Redis -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("redis")
def test_a_429_stops_every_process(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=7, times=1))
    ask()
    upstream.finish()  # another process knows only what Redis has
    assert (ask(), trigger.asked["all"]) == ("NotSent", 1)
    clock.shift(7.1)
    assert ask() == "answered"
