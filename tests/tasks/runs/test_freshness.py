"""How long a run by id and the runs of an account are fresh, and what Trigger.dev is asked while they are watched."""

import threading
from collections.abc import Iterator
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
from tasks.runs import known, snapshots
from tasks.runs.snapshots import FINAL, Snapshot, take
from tasks.trigger.types import Run
from tests.cast import Cast, make_key
from tests.client import ContractClient, later, with_key
from tests.conftest import use_redis

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
RUNS = "GET /api/v1/runs"
ONE_RUN = "GET /api/v3/runs/{id}"


def run(created: datetime, status: str = "COMPLETED") -> Run:
    return cast(Run, {"id": "run_x", "status": status, "createdAt": created.isoformat(), "tags": []})


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
def test_many_readers_of_one_thing_cost_one_call(crowd: list[APIClient], cast: Cast, trigger: Standin) -> None:
    all_are_here = threading.Event()

    def wait(request: Request) -> None:
        all_are_here.wait(0.3)

    trigger.before = wait
    tagged = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=[f"account:{cast.alice.pk}"]))
    for path in (f"/api/tasks/runs?runId={tagged.id}", "/api/tasks/runs"):
        assert ask_at_once(crowd, path) == [200] * 8
    assert (trigger.asked[RUNS], trigger.asked[ONE_RUN]) == (1, 1)


# --- What must not be taken for fresh --------------------------------------------------------------------------------


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
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    use_redis(settings, "redis://127.0.0.1:1/0")
    tags = [f"account:{cast.alice.pk}"]
    tagged = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=tags))
    for _ in range(2):
        assert alice_api.get("/api/tasks/runs", {"runId": tagged.id}).json()["runs_status"] == "fresh"
    assert trigger.asked[ONE_RUN] == 2
    assert alice_api.get("/api/tasks/runs?runId=run_unknown").status_code == 404


@pytest.mark.usefixtures("redis")
def test_what_one_process_knows_the_other_does_not_ask(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    tags = [f"account:{cast.alice.pk}"]
    tagged = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=tags))
    path = f"/api/tasks/runs?runId={tagged.id}"
    first = alice_api.get(path).json()
    upstream.finish()  # nothing of this process is left but what Redis has
    trigger.asked.clear()
    assert (alice_api.get(path).json(), trigger.asked["all"]) == (first, 0)


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
