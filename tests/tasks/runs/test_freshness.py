"""How long runs are fresh, and what Trigger.dev is asked while they are watched."""

import threading
import time
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest
import time_machine
from django.core.cache import cache
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
from tasks.runs import known, queries, snapshots
from tasks.runs.queries import Source
from tasks.runs.snapshots import FINAL, Snapshot, take
from tasks.trigger.types import Run
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, later, with_key
from tests.conftest import use_redis

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RUNS = "GET /api/v1/runs"
ONE_RUN = "GET /api/v3/runs/{id}"


def run(created: datetime, status: str = "COMPLETED") -> Run:
    return cast(Run, {"id": "run_x", "status": status, "createdAt": created.isoformat(), "tags": []})


def daily_at(hour: int, minute: int = 0) -> Any:
    def next_fire(after: datetime) -> datetime:
        fire = after.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return fire if fire > after else fire + timedelta(days=1)

    return next_fire


@pytest.mark.parametrize(
    ("listed", "fires", "seconds"),
    [
        ([run(NOON - timedelta(hours=3))], daily_at(9), 300),
        ([run(NOON - timedelta(hours=3))], daily_at(12, 2), 90),
        ([run(NOON - timedelta(days=1))], daily_at(12), 5),
        ([run(NOON - timedelta(days=1, seconds=90))], daily_at(11, 59), 5),
        ([run(NOON - timedelta(days=1))], daily_at(11, 57), 300),
        ([run(NOON)], daily_at(12), 300),
        ([run(NOON - timedelta(hours=3), "EXECUTING")], daily_at(9), 2),
        ([run(NOON - timedelta(hours=3)), run(NOON - timedelta(hours=9), "FROZEN")], daily_at(9), 2),
        ([run(NOON - timedelta(hours=3), "A_STATUS_OF_TOMORROW")], daily_at(9), 2),
        ([], daily_at(9), 300),
        ([], daily_at(12), 5),
        ([], lambda after: None, 300),
        ([cast(Run, {**run(NOON), "createdAt": "yesterday"})], daily_at(9), 2),
    ],
    ids=[
        *("it fires tomorrow", "it fires soon", "it fires now", "it fired and has no run yet"),
        *("it fired and never got a run", "it fired and has its run", "it is running", "an older one is running"),
        *("a status nobody knows", "no run ever", "the first run is due", "it is paused", "a date that is none"),
    ],
)
def test_how_long_the_runs_of_a_schedule_are_fresh(listed: list[Run], fires: Any, seconds: int) -> None:
    assert snapshots.fresh_until(listed, next_fire=fires, now=NOON) == NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_final_run_by_id_is_fresh_for_an_hour(status: str) -> None:
    assert snapshots.fresh_run_until([run(NOON, status)], now=NOON) == NOON + timedelta(hours=1)


def test_an_edit_ends_freshness_and_age_ends_being_shown() -> None:
    taken = take([run(NOON)], at=NOON, fresh_until=NOON + timedelta(seconds=100), generation=3)
    assert taken.is_fresh(now=NOON + timedelta(seconds=100), generation=3)
    assert not taken.is_fresh(now=NOON, generation=4)
    assert taken.is_shown(now=NOON + timedelta(seconds=200))
    assert not taken.is_shown(now=NOON + timedelta(seconds=201))


def snapshot(status: str, *, asked: float, run_id: str = "run_x") -> Snapshot:
    at = NOON + timedelta(seconds=asked)
    one = cast(Run, {**run(NOON, status), "id": run_id})
    return take([one], at=at, fresh_until=at)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (snapshot("QUEUED", asked=0), snapshot("EXECUTING", asked=1)),
        (snapshot("EXECUTING", asked=1), snapshot("COMPLETED", asked=0)),
        (snapshot("COMPLETED", asked=1), snapshot("EXECUTING", asked=2, run_id="run_next")),
        (snapshot("COMPLETED", asked=0), snapshot("COMPLETED", asked=1)),
    ],
    ids=["asked later", "it has ended, and was asked for earlier", "another run", "asked for once more"],
)
def test_what_is_out_of_date_does_not_take_the_place_of_what_is_not(earlier: Snapshot, later: Snapshot) -> None:
    assert later.supersedes(earlier)
    assert not earlier.supersedes(later)
    for order in ((earlier, later), (later, earlier)):
        cache.delete("thing")
        for one in order:
            known.keep("thing", one)
        assert cache.get("thing") == later


def test_what_a_wrong_clock_has_dated_takes_the_place_of_nothing() -> None:
    now = timezone.now()
    tomorrow, today = (take([run(NOON)], at=now + ahead, fresh_until=now) for ahead in (timedelta(days=1), timedelta()))
    known.keep("thing", tomorrow)
    assert known.keep("thing", today) == today == cache.get("thing")


@pytest.mark.parametrize("text", ["é ", "half a pair \ud83d", "\x00"])
def test_what_is_kept_encoded_comes_back_as_it_was(text: str) -> None:
    odd = cast(Run, {**run(NOON), "metadata": {"text": text, "number": 10**30}})
    taken: Snapshot = take([odd, run(NOON)], at=NOON, fresh_until=NOON)
    assert taken.runs() == [odd, run(NOON)]


# --- Watched through the API -----------------------------------------------------------------------------------------


@pytest.fixture
def task(cast: Cast) -> Task:
    """Daily; it fires twelve hours from now."""
    hour = (timezone.now().hour + 12) % 24
    return make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", schedule=f"0 {hour} * * *")


def add_run(trigger: Standin, task: Task, **fields: Any) -> StandinRun:
    schedule = {"id": task.trigger_schedule_id, "externalId": str(task.pk)}
    made = {"created": trigger.state.now - 43_000, "schedule": schedule, "kind": "SCHEDULED", **fields}
    return trigger.state.add_run(StandinRun("customer-prompt-task", **made))


def shown(api: APIClient) -> Any:
    (task,) = api.get("/api/tasks").json()["tasks"]
    return task


def test_a_warm_list_asks_nothing(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    add_run(trigger, task)
    first = shown(alice_api)
    upstream.finish()
    trigger.asked.clear()
    with later(minutes=4):
        assert shown(alice_api) == first
    assert trigger.asked["all"] == 0


def test_a_stale_list_is_shown_while_it_is_asked_for_behind(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    shown(alice_api)
    with later(minutes=6):
        late = add_run(trigger, task)
        before = shown(alice_api)
        upstream.finish()
        after = shown(alice_api)
    assert (before["runs_status"], before["recent_runs"]) == ("stale", [])
    assert (after["runs_status"], after["recent_runs"][0]["id"]) == ("fresh", late.id)


def test_a_very_old_list_is_waited_for(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    shown(alice_api)
    with later(minutes=20):
        late = add_run(trigger, task)
        (only,) = shown(alice_api)["recent_runs"]
    assert only["id"] == late.id


def test_a_run_that_appears_has_its_payload_fetched_behind_once(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    shown(alice_api)
    with later(minutes=20):
        add_run(trigger, task)
        for _ in range(3):
            shown(alice_api)
            upstream.finish()
    assert trigger.asked[ONE_RUN] == 1


def test_a_cold_list_of_fifty_asks_fifty_times(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    for number in range(50):
        add_run(trigger, make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}"))
    for _ in range(2):
        alice_api.get("/api/tasks")
        upstream.finish()
    assert trigger.asked == {"all": 50, RUNS: 50}


def test_while_it_runs_a_task_costs_a_call_every_two_seconds(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    add_run(trigger, task, stuck_as="EXECUTING")
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(60):
            shown(alice_api)
            upstream.finish()
            clock.shift(1)
    assert trigger.asked[RUNS] < 30


@pytest.mark.parametrize(("stuck_as", "most"), [(None, 1), ("EXECUTING", 31)])
def test_many_who_poll_a_run_cost_one_call_every_two_seconds(
    alice_api: ContractClient, cast: Cast, trigger: Standin, stuck_as: str | None, most: int
) -> None:
    tagged = trigger.state.add_run(
        StandinRun("t", trigger.state.now - 99, tags=[f"account:{cast.alice.pk}"], stuck_as=stuck_as)
    )
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(60):
            for _ in range(5):
                assert alice_api.get("/api/tasks/runs", {"runId": tagged.id}).status_code == 200
            upstream.finish()
            clock.shift(1)
    assert 1 <= trigger.asked[ONE_RUN] <= most


def test_the_list_of_an_account_costs_one_call_every_two_seconds(alice_api: ContractClient, trigger: Standin) -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(60):
            alice_api.get("/api/tasks/runs")
            upstream.finish()
            clock.shift(1)
    assert trigger.asked[RUNS] <= 31


def in_a_while() -> float:
    return time.monotonic() + 3


@pytest.fixture
def crowd(transactional_db: None, cast: Cast) -> Iterator[list[APIClient]]:
    clients = [APIClient(raise_request_exception=False) for _ in range(8)]
    for client in clients:
        client.credentials(HTTP_X_API_KEY=make_key(cast.alice))
    yield clients
    connections.close_all()


def ask_at_once(clients: list[APIClient], path: str) -> list[int]:
    barrier, statuses = threading.Barrier(len(clients)), list[int]()

    def ask(client: APIClient) -> None:
        barrier.wait(10)
        try:
            statuses.append(client.get(path).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return statuses


@pytest.mark.django_db(transaction=True)
def test_many_readers_of_one_thing_cost_one_call(
    crowd: list[APIClient], cast: Cast, task: Task, trigger: Standin
) -> None:
    all_are_here = threading.Event()

    def wait(request: Request) -> None:
        all_are_here.wait(0.3)

    trigger.before = wait
    tagged = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=[f"account:{cast.alice.pk}"]))
    for path in ("/api/tasks", f"/api/tasks/runs?runId={tagged.id}", "/api/tasks/runs"):
        assert ask_at_once(crowd, path) == [200] * 8
    assert (trigger.asked[RUNS], trigger.asked[ONE_RUN]) == (2, 1)


def test_a_hanging_trigger_leaves_no_queue_behind(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    for number in range(80):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    trigger.faults.add(Fault("hang"))
    tasks = alice_api.get("/api/tasks").json()["tasks"]
    assert {task["runs_status"] for task in tasks} == {"unavailable"}
    trigger.faults.clear()
    with later(seconds=3):
        alice_api.get("/api/tasks")
        upstream.settle_down()  # one call has found that it answers again
        tasks = alice_api.get("/api/tasks").json()["tasks"]
    assert {task["runs_status"] for task in tasks} == {"fresh"}


# --- What must not be taken for fresh --------------------------------------------------------------------------------


def test_a_run_that_was_started_is_looked_for_until_it_is_there(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    """Somebody looks right after it was asked for, and before Trigger.dev has it."""
    Task.objects.update(run_by_hand_at=timezone.now() - timedelta(seconds=1))
    assert shown(alice_api)["recent_runs"] == []
    tags = [f"account:{task.account_id}", f"task:{task.pk}"]
    started = trigger.state.add_run(StandinRun("customer-prompt-task", trigger.state.now, tags=tags))
    with later(seconds=11):
        (only,) = shown(alice_api)["recent_runs"]
    assert only["id"] == started.id


def test_who_asks_after_an_edit_is_not_given_what_was_asked_before_it(task: Task, trigger: Standin) -> None:
    source, edited = Source("schedule", "sched_a"), copy(task)
    edited.generation, answers = 2, list[Any]()

    def ask_after_the_edit(request: Request) -> None:
        trigger.before = lambda request: None
        answers.append(queries.newest({source: edited}, now=timezone.now(), deadline=in_a_while())[0][source])

    trigger.before = ask_after_the_edit
    queries.newest({source: task}, now=timezone.now(), deadline=in_a_while())
    (after,) = answers
    assert (trigger.asked[RUNS], after.status, after.snapshot.generation) == (2, "fresh", 2)


@pytest.mark.parametrize("fields", [{"synced_generation": 0}, {"refused_generation": 1}])
def test_while_trigger_does_not_hold_the_task_its_fires_are_not_trusted(
    alice_api: ContractClient, task: Task, trigger: Standin, fields: dict[str, int]
) -> None:
    Task.objects.update(**fields)
    shown(alice_api)
    with later(seconds=40):
        assert shown(alice_api)["runs_status"] == "stale"


def test_a_task_that_was_paused_right_after_its_fire_gets_its_run(cast: Cast) -> None:
    fired = NOON - timedelta(seconds=20)
    paused = make_task(cast.alice, cast.artist, enabled=False, schedule="* * * * *")
    paused.updated_at = fired + timedelta(seconds=5)
    assert queries.next_fire_of(paused, NOON - timedelta(minutes=2)) == NOON - timedelta(minutes=1)
    assert queries.next_fire_of(paused, NOON - timedelta(minutes=1)) is None


def test_a_finished_run_is_not_fresh_for_long_while_a_related_one_runs(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    tags = [f"account:{cast.alice.pk}"]
    parent = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=tags, stuck_as="EXECUTING"))
    child = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=tags, parent_id=parent.id))
    alice_api.get("/api/tasks/runs", {"runId": child.id})
    with later(minutes=1):
        alice_api.get("/api/tasks/runs", {"runId": child.id})
    assert trigger.asked[ONE_RUN] == 2


def test_what_a_wrong_clock_took_is_neither_fresh_nor_shown() -> None:
    taken = take([run(NOON)], at=NOON, fresh_until=NOON + timedelta(minutes=5))
    before = NOON - timedelta(minutes=1)
    assert (taken.is_fresh(now=before), taken.is_shown(now=before)) == (False, False)


def test_what_comes_late_does_not_replace_what_is_newer() -> None:
    newer = take([run(NOON)], at=NOON, fresh_until=NOON)
    older = take([], at=NOON - timedelta(seconds=9), fresh_until=NOON)
    for snapshot in (newer, older):
        known.keep("thing", snapshot)
    assert cache.get("thing") == newer


def test_a_foreign_run_costs_and_says_what_an_unknown_one_does(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    """Asked for twice, and again while Trigger.dev fails; the foreign one is kept for its owner."""
    foreign = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=[f"account:{cast.charlie.pk}"]))
    with_key(make_key(cast.charlie)).get("/api/tasks/runs", {"runId": foreign.id})
    costs = []
    for run_id in (foreign.id, "run_unknown"):
        trigger.faults.clear()
        trigger.asked.clear()
        statuses = [alice_api.get("/api/tasks/runs", {"runId": run_id}).status_code for _ in range(2)]
        trigger.faults.add(Fault("status", status=500))
        statuses.append(alice_api.get("/api/tasks/runs", {"runId": run_id}).status_code)
        with later(seconds=9):
            statuses.append(alice_api.get("/api/tasks/runs", {"runId": run_id}).status_code)
        costs.append((statuses, trigger.asked["all"]))
    assert costs[0] == costs[1] == ([404, 404, 404, 500], 3)


# --- With Redis -------------------------------------------------------------------------------------------------------


def test_a_redis_that_is_away_fails_nothing(
    alice_api: ContractClient, task: Task, trigger: Standin, settings: Settings
) -> None:
    use_redis(settings, "redis://127.0.0.1:1/0")
    add_run(trigger, task)
    for _ in range(2):
        assert shown(alice_api)["runs_status"] == "fresh"
    assert trigger.asked[RUNS] == 2
    assert alice_api.get("/api/tasks/runs?runId=run_unknown").status_code == 404


@pytest.mark.usefixtures("redis")
def test_what_one_process_knows_the_other_does_not_ask(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    add_run(trigger, task)
    first = shown(alice_api)
    upstream.finish()  # nothing of this process is left but what Redis has
    trigger.asked.clear()
    assert (shown(alice_api), trigger.asked["all"]) == (first, 0)


@pytest.mark.usefixtures("redis")
def test_two_processes_ask_once_and_both_have_the_answer() -> None:
    """Without what makes a question one within a process."""
    asked, answers = list[int](), list[Snapshot]()
    now = timezone.now()

    def fetch(*, now: datetime, deadline: Any) -> Snapshot:
        asked.append(1)
        begun.wait(0.3)
        return known.keep("thing", take([run(NOON)], at=now, fresh_until=now + timedelta(minutes=1)))

    def ask() -> None:
        question = known.Question("thing", "runs", fetch, is_enough=partial(Snapshot.is_fresh, now=now))
        answers.append(known.alone(question, now=now, deadline=upstream.deadline_from_now))

    begun = threading.Event()
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(asked), len(answers), {answer.newest_id for answer in answers}) == (1, 6, {"run_x"})


# --- Watched for long -------------------------------------------------------------------------------------------------


def watch(api: APIClient, trigger: Standin, *, minutes: int, clients: int, every: float) -> float:
    """Trigger.dev calls a minute, after the first answer; the clients ask one after the other, `every` seconds each."""
    api.get("/api/tasks")
    upstream.finish()
    trigger.asked.clear()
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(int(minutes * 60 / every) * clients):
            clock.shift(every / clients)
            api.get("/api/tasks")
            upstream.settle_down()
    return trigger.asked["all"] / minutes


@pytest.mark.slow
@pytest.mark.parametrize("running", [0, 1])
def test_200_daily_tasks_watched_by_20_clients_for_10_minutes(
    alice_api: ContractClient, cast: Cast, trigger: Standin, record_property: Any, running: int
) -> None:
    trigger.rate_limit = 0
    hour = (timezone.now().hour + 12) % 24
    for number in range(200):
        made = make_task(
            cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}", schedule=f"{number % 60} {hour} * * *"
        )
        add_run(trigger, made, stuck_as="EXECUTING" if number < running else None)
    calls = watch(alice_api, trigger, minutes=10, clients=20, every=20 if running else 40)
    record_property(
        "told", f"200 tasks, 20 clients, 10 minutes, {running} running: {calls:.1f} Trigger.dev calls a minute"
    )
    assert calls < 60 + 30 * running
