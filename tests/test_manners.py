"""Manners towards Trigger.dev: its 429, its failures, our budget, and whose turn it is."""

import threading
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
import time_machine
from django.db import connection
from prometheus_client import REGISTRY
from pytest_django import Settings

from tasks import upstream
from tasks.breaker import FAILURES, PAUSE, TRIAL
from tasks.budget import LOOKUPS_A_MINUTE
from tasks.fair_threads import FairThreads
from tasks.models import Task
from tasks.payers import Lookup, Payer, in_the_name_of, paid_by, payer
from tasks.trigger import errors
from tasks.trigger.client import PROBES, ROUTES
from tasks.trigger.standin.faults import Fault
from tasks.trigger.standin.messages import Request
from tasks.trigger.standin.state import StandinRun
from tasks.trigger.standin.wire import Standin
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key
from tests.contract.validation import generated

RUNS, ONE_RUN = "GET /api/v1/runs", "GET /api/v3/runs/{id}"
PATH = "/api/tasks/runs"


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """At the beginning of a minute, and still until somebody moves it."""
    with time_machine.travel(datetime.fromisoformat("2026-11-24T12:00:00+00:00"), tick=False) as traveller:
        yield traveller


def ask(call: str = "list_runs") -> str:
    """One call; the outcome by the name of its error."""
    questions: dict[str, Any] = {
        "list_runs": partial(upstream.client().list_runs, tag="account:x", limit=1),
        "retrieve_run": partial(upstream.client().retrieve_run, "run_x"),
        "retrieve_schedule": partial(upstream.client().retrieve_schedule, "x"),
    }
    try:
        questions[call](deadline=upstream.deadline_from_now())
    except errors.TriggerError as error:
        return type(error).__name__
    return "answered"


def rest(trigger: Standin, fault: Fault | None = None) -> None:
    """It fails at what it is asked until all that fails is left alone."""
    trigger.faults.add(fault or Fault("hang"))
    for _ in range(FAILURES):
        ask()
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
    assert outcomes[5:] == ["Resting"] * 5
    assert trigger.asked["all"] <= FAILURES + len(PROBES)


def test_one_call_that_nobody_waits_for_finds_that_it_answers_again(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    rest(trigger)
    all_have_asked = threading.Event()

    def wait(request: Request) -> None:
        all_have_asked.wait(10)

    trigger.faults.clear()
    trigger.before = wait
    clock.shift(PAUSE)
    assert [ask() for _ in range(5)] == ["Resting"] * 5
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
    rest(trigger)
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
    assert outcomes == ("Resting", "NotFound", "NotFound")


def test_a_part_that_hangs_leaves_the_other_parts_asked_though_nothing_else_is_asked_meanwhile(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    rest(trigger, Fault("hang", path="/api/v1/runs"))
    for _ in range(10):
        assert ask() == "Resting"
        upstream.settle_down()
        clock.shift(PAUSE)
    assert (ask("retrieve_run"), ask("retrieve_schedule")) == ("NotFound", "NotFound")


def test_who_cannot_pay_for_trying_leaves_it_to_the_next(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 40, 1
    charlie = with_key(make_key(cast.charlie))
    alices, charlies = ({"id": str(make_task(who, cast.artist).pk)} for who in (cast.alice, cast.charlie))
    look_at_lists = [charlie.get(PATH, {"limit": limit}).status_code for limit in range(1, 25)]
    assert look_at_lists[-1] == 429
    trigger.faults.add(Fault("hang", method="POST"))
    for _ in range(FAILURES):
        alice_api.post(PATH, alices, format="json")
        upstream.settle_down()
    trigger.faults.clear()
    clock.shift(PAUSE)
    assert charlie.post(PATH, charlies, format="json").status_code == 429
    assert alice_api.post(PATH, alices, format="json").status_code == 200


def test_a_kind_that_is_being_tried_is_not_tried_once_more(trigger: Standin, clock: time_machine.Traveller) -> None:
    """However long that takes, nothing piles up."""
    rest(trigger, Fault("hang", path="/api/v1/runs"))
    hold, tried = threading.Event(), list[Request]()

    def wait(request: Request) -> None:
        tried.append(request)
        hold.wait(10)

    trigger.before = wait
    for _ in range(20):
        clock.shift(TRIAL)
        ask()
    hold.set()
    upstream.settle_down()
    assert len(tried) == 1


def test_while_one_kind_rests_the_others_are_still_asked_once_for_all_processes(
    trigger: Standin, clock: time_machine.Traveller
) -> None:
    rest(trigger, Fault("hang", path="/api/v1/runs"))
    left_alone = {route: upstream.manners().leaves_alone(route) for route in ROUTES.values()}
    assert left_alone == {"runs": True, "run": False, "schedules": False, "trigger": False}


def test_one_run_that_trigger_cannot_show_leaves_the_others_shown(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """A stored output that is no JSON is a 500, each time it is asked for."""
    trigger.faults.add(Fault("status", path="*/run_poison"))
    for _ in range(10):
        alice_api.get(PATH, {"runId": "run_poison"})
        upstream.settle_down()
    assert with_key(make_key(cast.bob)).get(PATH, {"runId": "run_x"}).status_code == 404


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
    rest(trigger)
    clock.shift(1200)
    (task,) = alice_api.get("/api/tasks").json()["tasks"]
    upstream.settle_down()
    assert (task["runs_status"], trigger.asked[RUNS]) == ("stale", 1), "the one call is the one that tries again"


def test_while_it_rests_writes_stand_and_are_pending(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist)
    rest(trigger)
    answer = alice_api.patch("/api/tasks", {"id": str(task.pk), "title": "New"}, format="json")
    assert (answer.status_code, answer.json()["tasks"][0]["sync_status"]) == (200, "pending")
    row = Task.objects.get()
    assert (trigger.asked["all"], row.unsettled_until, row.lease_until) == (0, None, None)


# --- 429 -------------------------------------------------------------------------------------------------------------


def test_after_a_429_nothing_is_sent_until_its_reset(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=7, times=1))
    assert [ask(), ask(), ask("retrieve_schedule")] == ["TooManyRequests", "NotAsked", "NotAsked"]
    clock.shift(6.9)
    assert (ask(), trigger.asked["all"]) == ("NotAsked", 1)
    clock.shift(0.2)
    assert ask() == "answered"


def test_a_429_whose_reset_has_passed_stops_too(trigger: Standin, clock: time_machine.Traveller) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=0))
    assert [ask() for _ in range(20)] == ["TooManyRequests"] + ["NotAsked"] * 19
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


# --- The budget ------------------------------------------------------------------------------------------------------


def test_no_more_is_asked_than_the_budget_of_a_minute(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 20, 2
    assert [ask() for _ in range(12)] == ["answered"] * 10 + ["NotAsked"] * 2
    clock.shift(90)
    assert [ask() for _ in range(7)] == ["answered"] * 5 + ["NotAsked"] * 2, "half of the former minute still counts"


def test_one_payer_has_half_of_it_and_leaves_the_others_theirs(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 20, 1
    with paid_by("greedy"):
        assert [ask() for _ in range(12)] == ["answered"] * 10 + ["ShareSpent"] * 2
    with paid_by("modest"):
        assert ask() == "answered"


def test_a_request_is_paid_by_its_caller_and_nobody_after_it(
    cast: Cast, alice_api: ContractClient, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 10, 1
    statuses = [alice_api.get(PATH, {"limit": limit}).status_code for limit in range(1, 8)]
    assert statuses == [200] * 5 + [429] * 2
    assert payer.get() is None
    assert with_key(make_key(cast.bob)).get(PATH).status_code == 200


def test_what_one_asks_beyond_its_share_is_unavailable_and_not_empty(
    cast: Cast, alice_api: ContractClient, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 10, 1
    for number in range(8):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    shown = [task["runs_status"] for task in alice_api.get("/api/tasks").json()["tasks"]]
    assert sorted(shown) == ["fresh"] * 5 + ["unavailable"] * 3


# --- Runs that are not there -----------------------------------------------------------------------------------------


def spent() -> float:
    """Of the budget of this process, counted by what is left of it."""
    left = 0
    while ask() == "answered":
        left += 1
    return 500 - left


def look(api: ContractClient, *names: str) -> list[int]:
    return [api.get(PATH, {"runId": f"run_{name}"}).status_code for name in names]


def add_runs(cast: Cast, trigger: Standin, count: int) -> list[str]:
    tags = [f"account:{cast.alice.pk}"]
    for number in range(count):
        trigger.state.add_run(StandinRun("t", trigger.state.now - 99, f"run_own{number}", tags=tags))
    return [f"own{number}" for number in range(count)]


MANY = [f"unknown{number}" for number in range(LOOKUPS_A_MINUTE + 20)]


@pytest.mark.usefixtures("clock")
def test_runs_that_do_not_exist_cost_nothing_of_the_budget_and_end_in_a_429(
    alice_api: ContractClient, trigger: Standin
) -> None:
    trigger.rate_limit = 0
    assert look(alice_api, *MANY) == [404] * LOOKUPS_A_MINUTE + [429] * 20
    assert trigger.asked["all"] == LOOKUPS_A_MINUTE
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
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 40, 1
    assert look(alice_api, *add_runs(cast, trigger, 30)) == [200] * 20 + [429] * 10
    assert with_key(make_key(cast.charlie)).get(PATH).status_code == 200


@pytest.mark.usefixtures("clock")
def test_all_lookups_together_are_a_part_of_the_budget_at_most(
    cast: Cast, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 40, 1
    for person in (cast.alice, cast.bob, cast.charlie):
        look(with_key(make_key(person)), *MANY[:10])
    assert trigger.asked["all"] == 10
    assert [ask() for _ in range(40)] == ["answered"] * 40


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
@pytest.mark.parametrize("kind", ["status", "garbage", "reset"])
def test_runs_that_cannot_be_shown_are_looked_for_in_vain_too(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings, kind: Any
) -> None:
    """Their calls come out of what all lookups may cost: nobody has all of that, alone or with several workers."""
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 80, 2
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
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = most, workers
    assert look(alice_api, *MANY[: vain + 2]) == [404] * vain + [429] * 2
    assert look(with_key(make_key(cast.charlie)), "unknown") == [404]


@pytest.mark.django_db(transaction=True)
def test_those_who_look_at_once_pass_no_limit_together(
    alice_api: ContractClient, trigger: Standin, settings: Settings, clock: time_machine.Traveller
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 20, 1
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


@pytest.mark.usefixtures("clock")
def test_a_question_that_somebody_else_could_not_pay_is_asked_once_more_by_who_can(trigger: Standin) -> None:
    begun, refuse, answers = threading.Event(), threading.Event(), list[Any]()

    def cannot_pay() -> Any:
        begun.set()
        refuse.wait(10)
        raise errors.ShareSpent(retry_after=9, reason="share")

    def ask_together(call: Any) -> Any:
        return upstream.ask_together({"question": call}, deadline=upstream.deadline_from_now())["question"]

    poor = threading.Thread(target=lambda: ask_together(cannot_pay))
    rich = threading.Thread(target=lambda: answers.append(ask_together(lambda: "answered")))
    poor.start()
    begun.wait(10)
    rich.start()
    upstream.threads().submit("later", refuse.set)
    for thread in (poor, rich):
        thread.join(10)
    assert answers == ["answered"]


# --- Turns -----------------------------------------------------------------------------------------------------------


def test_what_one_asks_for_by_the_hundred_does_not_hold_up_the_next() -> None:
    threads, order, hold = FairThreads(1, "fair"), list[str](), threading.Event()
    threads.submit("first", partial(hold.wait, 10))
    for _ in range(100):
        threads.submit("greedy", partial(order.append, "greedy"))
    threads.submit("modest", partial(order.append, "modest"))
    assert threads.waiting("greedy") == 100
    hold.set()
    threads.shutdown()
    assert (order.index("modest"), len(order)) == (1, 101)


def test_a_job_that_was_cancelled_or_fails_holds_up_nobody() -> None:
    threads, hold = FairThreads(1, "fair"), threading.Event()
    threads.submit("a", partial(hold.wait, 10))
    cancelled, failing, last = (threads.submit("a", call) for call in (list, partial(int, "x"), list))
    cancelled.cancel()
    hold.set()
    threads.shutdown()
    assert isinstance(failing.exception(), ValueError)
    assert last.result() == []


def test_no_asker_has_all_of_the_threads() -> None:
    threads, hold, done = FairThreads(2, "fair", most_for_one=1), threading.Event(), threading.Event()
    for _ in range(5):
        threads.submit("greedy", partial(hold.wait, 10))
    threads.submit("modest", done.set)
    assert done.wait(10)
    hold.set()
    threads.shutdown()
    assert threads.waiting("greedy") == 0


def test_a_call_is_paid_by_who_asked_for_it_in_another_thread_too() -> None:
    with paid_by("alice"):
        call = in_the_name_of(payer.get(), payer.get)
    assert (call(), payer.get()) == (Payer("alice"), None)


@pytest.mark.usefixtures("clock")
def test_whatever_one_payer_asks_for_it_is_one_asker(trigger: Standin) -> None:
    """Lists, lookups and polls together leave a thread to the next."""
    hold = threading.Event()
    kinds = (Payer("greedy"), Payer("greedy", is_poll=True), Payer("greedy", lookup=Lookup()))
    for number in range(60):
        begin = partial(upstream.begin, f"question {number}", partial(hold.wait, 10), then=lambda answer: None)
        in_the_name_of(kinds[number % 3], begin)()
    with paid_by("modest"):
        answer = upstream.ask(lambda: "answered", deadline=upstream.deadline_from_now())
    hold.set()
    assert answer == "answered"


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
    caplog.set_level("INFO", logger="tasks.manners")
    for name in ("list_runs", "list_runs", "retrieve_run"):
        ask(name)
    clock.shift(60)
    ask()
    assert [record.getMessage() for record in caplog.records] == [
        "Trigger.dev was asked within a minute: 2 answered, 1 not_found"
    ]


def test_an_outage_is_a_line_when_it_begins_and_one_when_it_ends(
    trigger: Standin, clock: time_machine.Traveller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    rest(trigger)
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
    assert (ask(), trigger.asked["all"]) == ("NotAsked", 1)
    clock.shift(7.1)
    assert ask() == "answered"


@pytest.mark.usefixtures("redis")
def test_the_budget_is_one_for_all_processes(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE, settings.WEB_CONCURRENCY = 20, 2
    first = [ask() for _ in range(12)]
    upstream.finish()
    assert [*first, *(ask() for _ in range(10))] == ["answered"] * 20 + ["NotAsked"] * 2


@pytest.mark.usefixtures("redis")
def test_a_share_is_one_for_all_processes_too(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_A_MINUTE = 20
    with paid_by("greedy"):
        assert [ask() for _ in range(12)] == ["answered"] * 10 + ["ShareSpent"] * 2
