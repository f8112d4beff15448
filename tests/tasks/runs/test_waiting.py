"""Requests that wait for a run. Time is moved by the test; real time passes only until somebody is seen to wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from socket import socketpair
from typing import Any
from urllib.parse import urlencode

import pytest
import time_machine
from django.db import connection, connections
from django.utils import timezone
from pytest_django import Settings

from accounts.models import ApiKey, Membership
from core.schema import document
from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.models import Run, RunFeed
from tasks.runs import steps
from tasks.runs.waiting import Waiter, Waiting, has_left, wait_for_change, waiting
from tests.cast import Cast, make_key
from tests.client import ContractClient, wait_until, with_key

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/api/tasks/runs"
ONE_RUN, TAGGED = "GET /api/v3/runs/{id}", "GET /api/v1/runs"


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(timezone.now().replace(second=0, microsecond=0), tick=False) as traveller:
        yield traveller


@pytest.fixture
def run(cast: Cast, trigger: Standin, clock: time_machine.Traveller) -> StandinRun:
    """It executes, and is finished a minute from now."""
    document()  # not in several threads at once, which drf-spectacular does not bear
    tags = [f"account:{cast.alice.pk}"]
    return trigger.state.add_run(StandinRun("t", trigger.state.now - 60, tags=tags, starts_after=0, ends_after=120))


class Asking(threading.Thread):
    """A request in a thread of its own; `response` once it is there."""

    def __init__(self, api: ContractClient, run: StandinRun, **query: str) -> None:
        super().__init__(daemon=True)
        self.api, self.query, self.headers = api, {"runId": run.id, "wait": 25, **query}, dict[str, str]()
        self.response: Any = None

    def run(self) -> None:
        try:
            self.response = self.api.get(f"{PATH}?{urlencode(self.query)}", headers=self.headers)
        finally:
            connections.close_all()

    def answer(self) -> Any:
        self.join(20)
        assert self.response is not None, "it is still held"
        return self.response


def waiters() -> int:
    return len(waiting())


def hold(*asking: Asking) -> None:
    for one in asking:
        one.start()
    wait_until(lambda: waiters() == len(asking))


def status_of(response: Any) -> str:
    (run,) = response.json()["runs"]
    return str(run["status"])


# --- When it answers -------------------------------------------------------------------------------------------------


def test_it_answers_when_the_run_is_finished(
    alice_api: ContractClient, run: StandinRun, clock: time_machine.Traveller
) -> None:
    asking = Asking(alice_api, run)
    hold(asking)
    clock.shift(61)
    response = asking.answer()
    assert (response.status_code, status_of(response), "Retry-After" in response) == (200, "COMPLETED", False)
    assert response.json()["runs_status"] == "fresh"


def test_it_answers_when_the_status_changes(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    tags = [f"account:{cast.alice.pk}"]
    queued = trigger.state.add_run(StandinRun("t", trigger.state.now, tags=tags, starts_after=30, ends_after=99))
    asking = Asking(alice_api, queued)
    hold(asking)
    clock.shift(31)
    response = asking.answer()
    assert (status_of(response), response["Retry-After"]) == ("EXECUTING", "2")


def test_after_the_wait_it_answers_what_there_is(alice_api: ContractClient, run: StandinRun) -> None:
    asking = Asking(alice_api, run, wait="1")
    hold(asking)
    response = asking.answer()
    assert (status_of(response), response["Retry-After"], waiters()) == ("EXECUTING", "2", 0)


@pytest.mark.parametrize("query", [{"wait": "0"}, {}])
def test_without_a_wait_it_answers_at_once(alice_api: ContractClient, run: StandinRun, query: dict[str, str]) -> None:
    assert status_of(alice_api.get(PATH, {"runId": run.id, **query})) == "EXECUTING"


def test_a_finished_run_is_not_waited_for(
    alice_api: ContractClient, run: StandinRun, clock: time_machine.Traveller
) -> None:
    clock.shift(61)
    response = alice_api.get(PATH, {"runId": run.id, "wait": "25"})
    assert (status_of(response), "Retry-After" in response) == ("COMPLETED", False)


def test_a_run_that_is_not_there_is_not_waited_for(alice_api: ContractClient, run: StandinRun) -> None:
    assert alice_api.get(PATH, {"runId": "run_unknown", "wait": "25"}).status_code == 404


def test_what_the_client_has_missed_is_answered_at_once(alice_api: ContractClient, run: StandinRun) -> None:
    response = alice_api.get(PATH, {"runId": run.id, "wait": "25"}, headers={"If-None-Match": 'W/"earlier"'})
    assert status_of(response) == "EXECUTING"


def test_with_a_tag_what_stays_the_same_is_a_304_after_the_wait(alice_api: ContractClient, run: StandinRun) -> None:
    etag = alice_api.get(PATH, {"runId": run.id})["ETag"]
    asking = Asking(alice_api, run, wait="1")
    asking.headers = {"If-None-Match": etag}
    hold(asking)
    response = asking.answer()
    assert (response.status_code, response["Retry-After"]) == (304, "2")


@pytest.mark.parametrize("query", ["wait=5", "wait=26&runId=run_x", "wait=-1&runId=run_x", "wait=x&runId=run_x"])
def test_a_wait_that_cannot_be_is_a_400_that_names_it(alice_api: ContractClient, query: str) -> None:
    response = alice_api.get(f"{PATH}?{query}")
    assert (response.status_code, response.json()["error"][:5]) == (400, "wait ")


def test_a_head_does_not_wait(alice_api: ContractClient, run: StandinRun) -> None:
    assert alice_api.head(PATH, {"runId": run.id, "wait": "25"}).status_code == 200


# --- What it costs ---------------------------------------------------------------------------------------------------


def test_all_who_wait_together_cost_one_list_every_two_seconds(
    alice_api: ContractClient, cast: Cast, run: StandinRun, trigger: Standin, clock: time_machine.Traveller
) -> None:
    apis = [alice_api, with_key(make_key(cast.bob)), *(with_key(make_key(cast.alice)) for _ in range(4))]
    crowd = [Asking(api, run) for api in apis]
    hold(*crowd)
    wait_until(RunFeed.objects.filter(polled_at__isnull=False).exists)
    trigger.asked.clear()
    for calls in range(1, 5):
        clock.shift(5.1)
        wait_until(lambda so_many=calls: trigger.asked[TAGGED] >= so_many)  # type: ignore[misc]
        steps.background().join()
    assert trigger.asked[ONE_RUN] == 0
    clock.shift(60)
    assert {status_of(one.answer()) for one in crowd} == {"COMPLETED"}
    assert trigger.asked[ONE_RUN] == 1


class Watched(threading.Event):
    """Notes whether its thread has a database connection when it begins to wait."""

    had_connection: bool | None = None

    def wait(self, timeout: float | None = None) -> bool:
        self.had_connection = connection.connection is not None
        return True


def test_the_database_connection_is_given_back_before_waiting(alice_api: ContractClient, run: StandinRun) -> None:
    waiter = a_waiter(alice_api, run)
    waiter.is_over = event = Watched()
    connection.ensure_connection()
    assert wait_for_change(waiter, seconds=1)
    assert event.had_connection is False


# --- Whom it answers -------------------------------------------------------------------------------------------------


def revoke(cast: Cast) -> None:
    ApiKey.objects.filter(account=cast.bob).update(revoked_at=timezone.now())


def leave_organization(cast: Cast) -> None:
    Membership.objects.filter(account=cast.bob).delete()


@pytest.mark.parametrize(
    ("happens", "query", "status"),
    [
        (revoke, {}, 401),
        (revoke, {"account_id": "alice"}, 401),
        (leave_organization, {}, 404),
        (leave_organization, {"account_id": "alice"}, 403),
    ],
)
def test_credential_and_access_are_checked_again(
    cast: Cast,
    run: StandinRun,
    clock: time_machine.Traveller,
    happens: Callable[[Cast], None],
    query: dict[str, str],
    status: int,
) -> None:
    bobs_api = with_key(make_key(cast.bob))
    asking = Asking(bobs_api, run, **{name: str(cast.person(person).pk) for name, person in query.items()})
    hold(asking)
    happens(cast)
    clock.shift(61)
    response = asking.answer()
    assert response.status_code == status
    assert (response.headers.get("WWW-Authenticate") is not None) == (status == 401)


def test_a_run_that_vanishes_while_one_waits_is_a_404_after_the_wait(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    document()
    tags = [f"account:{cast.alice.pk}"]
    run = trigger.state.add_run(StandinRun("t", trigger.state.now - 600, tags=tags, stuck_as="EXECUTING"))
    asking = Asking(alice_api, run, wait="1")
    hold(asking)
    trigger.state.remove_run(run.id)
    clock.shift(3)
    assert asking.answer().status_code == 404


def test_while_trigger_is_away_it_is_held_and_then_told_the_truth(
    alice_api: ContractClient, run: StandinRun, trigger: Standin, clock: time_machine.Traveller
) -> None:
    asking = Asking(alice_api, run, wait="1")
    hold(asking)
    trigger.faults.add(Fault("reset"))
    clock.shift(30)
    response = asking.answer()
    assert (response.status_code, response.json()["runs_status"], response["Retry-After"]) == (200, "stale", "2")


def test_a_run_of_nobody_is_answered_at_once(
    dora_api: ContractClient, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """No poll follows it: only an admin may see it."""
    document()
    run = trigger.state.add_run(StandinRun("t", trigger.state.now - 60, stuck_as="EXECUTING"))
    response = dora_api.get(PATH, {"runId": run.id, "wait": "25"})
    assert (status_of(response), response["Retry-After"]) == ("EXECUTING", "2")


def test_a_signed_address_that_is_new_is_no_news(
    alice_api: ContractClient, run: StandinRun, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """Trigger.dev signs it anew for each answer. A client is sent a new one each minute."""

    def sign(request: Request) -> None:
        address = f"https://store.example/x?signature={trigger.asked['all']}"
        trigger.state.remove_run(run.id)
        trigger.state.add_run(replace(run, presigned_payload=address))

    trigger.before = sign
    first = alice_api.get(PATH, {"runId": run.id})
    clock.shift(6)
    asking = Asking(alice_api, run, wait="1")
    asking.headers = {"If-None-Match": first["ETag"]}
    hold(asking)
    assert asking.answer().status_code == 304
    clock.shift(60)
    later = alice_api.get(PATH, {"runId": run.id}, headers={"If-None-Match": first["ETag"]})
    (before,), (after,) = first.json()["runs"], later.json()["runs"]
    assert before["payloadPresignedUrl"] != after["payloadPresignedUrl"]


# --- How many --------------------------------------------------------------------------------------------------------


def test_one_more_than_may_wait_is_answered_at_once(
    alice_api: ContractClient, run: StandinRun, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.THREADS = 18
    waiting.cache_clear()
    crowd = [Asking(alice_api, run) for _ in range(2)]
    hold(*crowd)
    response = alice_api.get(PATH, {"runId": run.id, "wait": "25"})
    assert (status_of(response), response["Retry-After"], waiters()) == ("EXECUTING", "2", 2)
    clock.shift(61)
    assert {status_of(one.answer()) for one in crowd} == {"COMPLETED"}
    assert waiters() == 0


def test_with_few_threads_nobody_is_held(alice_api: ContractClient, run: StandinRun, settings: Settings) -> None:
    settings.THREADS = 16
    waiting.cache_clear()
    assert alice_api.get(PATH, {"runId": run.id, "wait": "25"})["Retry-After"] == "2"


def test_a_request_that_waits_when_the_process_ends_is_answered(alice_api: ContractClient, run: StandinRun) -> None:
    asking = Asking(alice_api, run)
    hold(asking)
    waiting().is_ending = lambda: True
    response = asking.answer()
    assert (status_of(response), response["Retry-After"]) == ("EXECUTING", "2")


def test_a_client_that_has_left_is_seen_without_reading_what_it_sent() -> None:
    ours, theirs = socketpair()
    with closing(ours):
        assert not has_left(ours)
        theirs.send(b"x")
        assert not has_left(ours)
        assert ours.recv(1) == b"x"
        theirs.close()
        assert has_left(ours)
    assert has_left(ours)
    assert not has_left(None)


# --- One look --------------------------------------------------------------------------------------------------------


@pytest.fixture
def room() -> Waiting:
    """Its thread looks at nothing: the test does."""
    room = Waiting(places=30)
    room._thread = threading.current_thread()
    return room


def a_waiter(api: ContractClient, run: StandinRun, *, left: bool = False) -> Waiter:
    """For the run as it is now."""
    return Waiter(run.id, status_of(api.get(PATH, {"runId": run.id})), has_left=lambda: left)


def test_a_look_answers_as_many_as_there_are_database_connections(
    run: StandinRun, alice_api: ContractClient, room: Waiting
) -> None:
    """A hundred at once would wait for a connection for so long that some of them got an error."""
    waiters = [a_waiter(alice_api, run) for _ in range(30)]
    for waiter in waiters:
        room.join(waiter)
    Run.objects.update(status="COMPLETED", is_final=True)
    for answered in (20, 30):
        room.look()
        assert sum(waiter.is_over.is_set() for waiter in waiters) == answered


def test_a_look_is_one_query_for_any_number_of_waiters(
    run: StandinRun, alice_api: ContractClient, room: Waiting, django_assert_num_queries: Any
) -> None:
    waiters = [a_waiter(alice_api, run) for _ in range(3)]
    for waiter in waiters:
        room.join(waiter)
    with django_assert_num_queries(1):
        room.look()
    assert not any(waiter.is_over.is_set() for waiter in waiters)
    Run.objects.update(status="COMPLETED", is_final=True)
    room.look()
    assert all(waiter.is_over.is_set() for waiter in waiters)


def test_who_has_left_is_let_go(run: StandinRun, alice_api: ContractClient, room: Waiting) -> None:
    waiter = a_waiter(alice_api, run, left=True)
    room.join(waiter)
    room.look()
    assert waiter.is_over.is_set()


def test_who_comes_later_and_has_seen_more_is_held(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller, room: Waiting
) -> None:
    tags = [f"account:{cast.alice.pk}"]
    run = trigger.state.add_run(StandinRun("t", trigger.state.now, tags=tags, starts_after=1, ends_after=99))
    early = a_waiter(alice_api, run)
    room.join(early)
    clock.shift(6)
    late = a_waiter(alice_api, run)
    room.join(late)
    room.look()
    assert (early.status, late.status) == ("QUEUED", "EXECUTING")
    assert (early.is_over.is_set(), late.is_over.is_set()) == (True, False)


def test_a_process_that_ends_holds_nobody_new(run: StandinRun, alice_api: ContractClient, room: Waiting) -> None:
    room.is_ending = lambda: True
    assert not room.join(a_waiter(alice_api, run))


def test_the_thread_lives_while_somebody_waits(run: StandinRun, alice_api: ContractClient) -> None:
    room = Waiting(places=10)
    for _ in range(2):
        waiter = a_waiter(alice_api, run, left=True)
        room.join(waiter)
        assert waiter.is_over.wait(10)
        room.leave(waiter)
        wait_until(lambda: not any(thread.name == "waiting" for thread in threading.enumerate()))
