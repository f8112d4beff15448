"""The gate in front of Trigger.dev: circuit breakers, the rate-limit reset after a 429, metrics and log lines."""

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
from tasks.trigger.client import PROBES
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key
from tests.trigger_calls import call_trigger

RUNS = "GET /api/v1/runs"
PATH = "/api/tasks/runs"


def open_circuit_breakers(
    trigger: Standin, fault: Fault | None = None, *, calls: Sequence[str] = ("list_runs",)
) -> None:
    """Lets these calls fail until their circuit breakers are open."""
    trigger.faults.add(fault or Fault("hang"))
    for call in calls:
        for _ in range(MAX_FAILURES):
            call_trigger(call)
    upstream.settle_down()
    trigger.asked.clear()


# --- Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hang", "reset", "status", "garbage"])
def test_consecutive_failures_open_the_circuit_breaker_and_nothing_is_sent(
    trigger: Standin, clock: time_machine.Traveller, kind: Any
) -> None:
    trigger.faults.add(Fault(kind))
    outcomes = []
    for _ in range(10):
        outcomes.append(call_trigger())
        upstream.settle_down()  # after unusable answers, a probe checks whether all routes fail
    assert outcomes[0] in ("TimedOut", "NotReached", "Failed", "BrokenAnswer")
    assert outcomes[5:] == ["CircuitOpen"] * 5
    assert trigger.asked["all"] <= MAX_FAILURES + len(PROBES)


def test_one_background_trial_closes_the_circuit_breaker_when_trigger_recovers(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit_breakers(trigger)
    all_were_refused = threading.Event()

    def hold_trial(request: Request) -> None:
        all_were_refused.wait(10)

    trigger.faults.clear()
    trigger.before = hold_trial
    clock.shift(PAUSE)
    assert [call_trigger() for _ in range(5)] == ["CircuitOpen"] * 5
    assert trigger.asked["all"] <= 1
    all_were_refused.set()
    upstream.settle_down()
    assert [call_trigger(call) for call in ("list_runs", "retrieve_run", "retrieve_schedule")] == [
        "answered",
        "NotFound",
        "NotFound",
    ]


def test_while_trigger_fails_one_trial_is_sent_after_each_pause(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit_breakers(trigger)
    for _ in range(20):
        clock.shift(PAUSE / 2)
        call_trigger()
        upstream.settle_down()
    assert 5 <= trigger.asked["all"] <= 10


def test_one_failing_route_leaves_the_other_routes_closed(trigger: Standin, clock: time_machine.Traveller) -> None:
    """When ClickHouse is down, Trigger.dev still serves single runs and schedules, but no lists of runs."""
    trigger.faults.add(Fault("status", path="/api/v1/runs"))
    for _ in range(8):
        outcomes = (call_trigger(), call_trigger("retrieve_run"), call_trigger("retrieve_schedule"))
        upstream.settle_down()
    assert outcomes == ("CircuitOpen", "NotFound", "NotFound")


def test_one_hanging_route_leaves_the_other_routes_closed_even_without_other_calls(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit_breakers(trigger, Fault("hang", path="/api/v1/runs"))
    for _ in range(10):
        assert call_trigger() == "CircuitOpen"
        upstream.settle_down()
        clock.shift(PAUSE)
    assert (call_trigger("retrieve_run"), call_trigger("retrieve_schedule")) == ("NotFound", "NotFound")


def test_a_call_that_the_quota_refuses_does_not_use_up_the_trial(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    task = {"id": str(make_task(cast.alice, cast.artist).pk)}
    trigger.faults.add(Fault("hang", method="POST"))
    for _ in range(MAX_FAILURES):
        alice_api.post(PATH, task, format="json")
        upstream.settle_down()
    trigger.faults.clear()
    clock.shift(PAUSE)
    settings.TRIGGER_CALLS_PER_MINUTE = 1
    assert alice_api.post(PATH, task, format="json").status_code == 500
    settings.TRIGGER_CALLS_PER_MINUTE = 1000
    assert alice_api.post(PATH, task, format="json").status_code == 200


def test_a_trial_whose_deadline_is_too_short_leaves_it_to_the_next_call(
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


def test_a_route_has_only_one_trial_at_a_time(trigger: Standin, clock: time_machine.Traveller) -> None:
    """However long the trial takes, no second one starts."""
    open_circuit_breakers(trigger, Fault("hang", path="/api/v1/runs"))
    is_released, trials = threading.Event(), list[Request]()

    def hold_trial(request: Request) -> None:
        trials.append(request)
        is_released.wait(10)

    trigger.before = hold_trial
    for _ in range(20):
        clock.shift(TRIAL_TIMEOUT)
        call_trigger()
    is_released.set()
    upstream.settle_down()
    assert len(trials) == 1


def test_an_open_circuit_breaker_refuses_calls_of_its_own_route_only(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit_breakers(trigger, Fault("hang", path="/api/v1/runs"))
    trigger.faults.clear()
    outcomes = {name: call_trigger(name) for name in ("list_runs", "retrieve_run", "retrieve_schedule")}
    assert outcomes == {"list_runs": "CircuitOpen", "retrieve_run": "NotFound", "retrieve_schedule": "NotFound"}


def test_one_run_that_always_fails_does_not_open_the_circuit_breaker(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """A run whose stored output is invalid JSON is a 500 on each request."""
    trigger.faults.add(Fault("status", path="*/run_poison"))
    for _ in range(10):
        alice_api.get(PATH, {"runId": "run_poison"})
        upstream.settle_down()
    assert with_key(make_key(cast.bob)).get(PATH, {"runId": "run_x"}).status_code == 404


def test_connection_resets_open_the_circuit_breaker_of_single_runs_until_a_trial_succeeds(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    open_circuit_breakers(trigger, Fault("reset", path="/api/v3/runs/run_x"), calls=("retrieve_run",))
    assert [call_trigger("retrieve_run"), call_trigger()] == ["CircuitOpen", "answered"]
    trigger.faults.clear()
    clock.shift(PAUSE)
    assert call_trigger("retrieve_run") == "CircuitOpen"
    upstream.settle_down()
    assert call_trigger("retrieve_run") == "NotFound"


def test_alice_can_start_runs_again_after_trigger_recovers(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """This route has no harmless probe, so the next real call is the trial."""
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


def test_a_run_that_was_not_sent_says_so_and_has_retry_after(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=17, times=1))
    call_trigger()
    answer = alice_api.post(PATH, {"id": str(make_task(cast.alice, cast.artist).pk)}, format="json")
    assert (answer.status_code, answer["Retry-After"]) == (500, "17")
    assert answer.json()["error"].startswith("No run was started")


def test_a_timeout_with_a_short_deadline_does_not_count_as_a_failure(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    trigger.faults.add(Fault("hang"))
    for _ in range(20):
        with pytest.raises(errors.TimedOut):
            upstream.client().retrieve_run("run_x", deadline=upstream.deadline_from_now() - 2.5)
    assert trigger.asked["all"] == 20


def test_a_404_does_not_count_as_a_failure(trigger: Standin, clock: time_machine.Traveller) -> None:
    assert [call_trigger("retrieve_run") for _ in range(10)] == ["NotFound"] * 10


def test_while_the_circuit_breaker_is_open_a_list_shows_stale_runs_at_once(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", schedule="* * * * *")
    alice_api.get("/api/tasks")
    open_circuit_breakers(trigger)
    clock.shift(1200)
    for _ in range(3):
        (task,) = alice_api.get("/api/tasks").json()["tasks"]
        assert task["runs_status"] == "stale"
    assert trigger.asked[RUNS] == 1, "the only call is the trial"


def test_while_the_circuit_breaker_is_open_a_write_is_saved_and_pending(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist)
    open_circuit_breakers(trigger, calls=("list_runs", "retrieve_schedule"))
    answer = alice_api.patch("/api/tasks", {"id": str(task.pk), "enabled": False}, format="json")
    assert (answer.status_code, answer.json()["tasks"][0]["sync_status"]) == (200, "pending")
    row = Task.objects.get()
    assert (trigger.asked["all"], row.unsettled_until, row.lease_until) == (0, None, None)


# --- 429 -------------------------------------------------------------------------------------------------------------


def test_after_a_429_nothing_is_sent_until_the_rate_limit_reset(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=7, times=1))
    assert [call_trigger(), call_trigger(), call_trigger("retrieve_schedule")] == [
        "TooManyRequests",
        "NotSent",
        "NotSent",
    ]
    clock.shift(6.9)
    assert (call_trigger(), trigger.asked["all"]) == ("NotSent", 1)
    clock.shift(0.2)
    assert call_trigger() == "answered"


def test_a_429_with_a_past_reset_stops_calls_for_a_second(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=0))
    assert [call_trigger() for _ in range(20)] == ["TooManyRequests"] + ["NotSent"] * 19
    clock.shift(1.1)
    assert call_trigger() == "TooManyRequests"


def test_a_request_that_needs_trigger_before_the_reset_has_retry_after(
    alice_api: ContractClient, trigger: Standin, clock: time_machine.Traveller
) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=17, times=1))
    call_trigger()
    clock.shift(5)
    response = alice_api.get(PATH)
    assert (response.status_code, response["Retry-After"], trigger.asked["all"]) == (500, "12", 1)


# --- Metrics and log lines -------------------------------------------------------------------------------------------


def count_of(outcome: str) -> float:
    return REGISTRY.get_sample_value("recoup_trigger_calls_total", {"route": "runs", "outcome": outcome}) or 0.0


def test_calls_are_counted_by_outcome(trigger: Standin, clock: time_machine.Traveller) -> None:
    counts_before = {name: count_of(name) for name in ("answered", "rate_limited", "until_reset")}
    trigger.faults.add(Fault("rate_limit", times=1))
    for _ in range(2):
        call_trigger()
    clock.shift(20)
    call_trigger()
    assert {name: count_of(name) - counts_before[name] for name in counts_before} == dict.fromkeys(counts_before, 1.0)


def test_one_log_line_per_minute_counts_call_outcomes(
    trigger: Standin, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tasks.gateway.gate")
    for name in ("list_runs", "list_runs", "retrieve_run"):
        call_trigger(name)
    clock.shift(60)
    call_trigger()
    assert [record.getMessage() for record in caplog.records] == [
        "Calls to Trigger.dev in one minute: 2 answered, 1 not_found"
    ]


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends(
    trigger: Standin, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    open_circuit_breakers(trigger)
    for _ in range(30):
        call_trigger()
    trigger.faults.clear()
    clock.shift(PAUSE)
    call_trigger()
    upstream.settle_down()
    assert len(caplog.records) == 2


# --- With Redis -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("redis")
def test_a_429_stops_calls_of_all_processes(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=7, times=1))
    call_trigger()
    upstream.finish()  # simulates another process, which knows only what Redis stores
    assert (call_trigger(), trigger.asked["all"]) == ("NotSent", 1)
    clock.shift(7.1)
    assert call_trigger() == "answered"
