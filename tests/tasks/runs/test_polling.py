"""Asking again and again: entity tags, when to come again, and what it costs."""

import json
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.utils import timezone

from accounts.models import Membership
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.gateway import upstream
from tasks.models import RunFeed, Task
from tasks.runs.steps import run_steps
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, later, with_key

TASKS, RUNS = "/api/tasks", "/api/tasks/runs"


@pytest.fixture
def task(cast: Cast) -> Task:
    """Daily; it fires twelve hours from now."""
    hour = (timezone.now().hour + 12) % 24
    return make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", schedule=f"0 {hour} * * *")


@pytest.fixture
def run(cast: Cast, trigger: Standin) -> StandinRun:
    return trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=[f"account:{cast.alice.pk}"]))


def again(api: ContractClient, path: str, etag: str, **query: Any) -> Any:
    return api.get(path, query, headers={"If-None-Match": etag})


# --- Entity tags -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?limit=1", "runs", "runs?runId={run}"])
def test_what_has_not_changed_is_an_empty_304_with_its_tag(
    alice_api: ContractClient, task: Task, run: StandinRun, query: str
) -> None:
    path = f"{TASKS}/{query}".format(run=run.id) if query.startswith("runs") else f"{TASKS}{query}"
    first = alice_api.get(path)
    etag = first["ETag"]
    second = again(alice_api, path, etag)
    assert etag.startswith('W/"')
    assert (first.status_code, second.status_code, second.content, second["ETag"]) == (200, 304, b"", etag)
    for response in (first, second):
        assert response["Cache-Control"] == "private"
        assert {"x-api-key", "Authorization"} <= set(response["Vary"].split(", "))
    assert "Content-Length" not in second


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("{etag}", 304),
        # As proxies that compress the answer change it.
        ('{cut}-gzip"', 304),
        ('{cut};br"', 304),
        ('{cut}-other"', 200),
        ("-" * 30_000 + "{etag}", 200),
        ('"other", {etag}', 304),
        ("*", 304),
        ("{strong}", 304),
        ('"other"', 200),
        ('W/"other"', 200),
        ("garbage", 200),
        ("", 200),
        ('W/"', 200),
        ("é", 200),
    ],
)
def test_a_tag_may_stand_in_a_list_and_garbage_is_none(
    alice_api: ContractClient, task: Task, header: str, status: int
) -> None:
    etag = alice_api.get(TASKS)["ETag"]
    sent = header.format(etag=etag, strong=etag.removeprefix("W/"), cut=etag.removesuffix('"'))
    assert again(alice_api, TASKS, sent).status_code == status


def test_when_trigger_was_asked_is_no_part_of_the_tag(
    alice_api: ContractClient, task: Task, run: StandinRun, trigger: Standin
) -> None:
    """It was asked anew, and says the same."""
    paths = (TASKS, RUNS)
    before = [alice_api.get(path) for path in paths]
    trigger.asked.clear()
    with later(minutes=20):
        Task.objects.update(next_poll_at=timezone.now())
        RunFeed.objects.update(next_poll_at=timezone.now(), watched_until=timezone.now() + timedelta(minutes=1))
        run_steps()
        after = [again(alice_api, path, one["ETag"]) for path, one in zip(paths, before, strict=True)]
        fresh = alice_api.get(RUNS)
    assert [response.status_code for response in after] == [304, 304]
    assert trigger.asked["all"] == 3, "of the task, of the account, and the newest runs"
    assert fresh.json()["runs_as_of"] != before[1].json()["runs_as_of"]
    assert fresh["ETag"] == before[1]["ETag"]


def change_title(task: Task, trigger: Standin) -> None:
    Task.objects.update(title="Another")


def add_run(task: Task, trigger: Standin) -> None:
    schedule = {"id": "sched_a", "externalId": str(task.pk)}
    trigger.state.add_run(StandinRun("t", trigger.state.now + 60, schedule=schedule, kind="SCHEDULED"))
    with later(minutes=6):
        run_steps()


def take_away(task: Task, trigger: Standin) -> None:
    trigger.faults.add(Fault("reset"))


@pytest.mark.parametrize("happens", [change_title, add_run, take_away])
def test_whatever_the_caller_can_see_changes_the_tag(
    alice_api: ContractClient, task: Task, trigger: Standin, happens: Any
) -> None:
    Task.objects.update(schedule="* * * * *")
    etag = alice_api.get(TASKS)["ETag"]
    happens(task, trigger)
    with later(minutes=6):
        response = again(alice_api, TASKS, etag)
    assert (response.status_code, response["ETag"] != etag) == (200, True)


def test_a_tag_opens_nothing(alice_api: ContractClient, cast: Cast, task: Task, run: StandinRun) -> None:
    """Charlie has seen Alice's tag, and Bob has left her organization."""
    charlie, bob = with_key(make_key(cast.charlie)), with_key(make_key(cast.bob))
    owner = {"account_id": str(cast.alice.pk)}
    etag = bob.get(TASKS, owner)["ETag"]
    run_tag = bob.get(RUNS, {"runId": run.id})["ETag"]
    Membership.objects.filter(account=cast.bob).delete()
    for api in (charlie, bob):
        assert again(api, TASKS, etag, **owner).status_code == 403
        assert again(api, TASKS, "*", **owner).status_code == 403
        assert again(api, RUNS, run_tag, runId=run.id).status_code == 404
    anonymous = ContractClient().get(TASKS, headers={"If-None-Match": "*"})
    assert (anonymous.status_code, anonymous["Cache-Control"]) == (401, "private")


def test_a_write_has_no_tag(alice_api: ContractClient, task: Task) -> None:
    answer = alice_api.patch(TASKS, {"id": str(task.pk), "title": "New"}, format="json")
    assert (answer.status_code, "ETag" in answer) == (200, False)


# --- When to come again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stuck_as", "expected"),
    [("EXECUTING", "2"), ("PENDING", "2"), ("PAUSED", "2"), ("CANCELED", None), ("EXPIRED", None), (None, None)],
)
def test_an_unfinished_run_says_when_to_come_again_and_a_finished_one_does_not(
    alice_api: ContractClient, cast: Cast, trigger: Standin, stuck_as: str | None, expected: str | None
) -> None:
    tags = [f"account:{cast.alice.pk}"]
    run = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=tags, stuck_as=stuck_as))
    response = alice_api.get(RUNS, {"runId": run.id})
    assert response.headers.get("Retry-After") == expected
    not_modified = again(alice_api, RUNS, response["ETag"], runId=run.id)
    assert (not_modified.status_code, not_modified.headers.get("Retry-After")) == (304, expected)


# --- Polled for long -------------------------------------------------------------------------------------------------


def size_of(response: Any) -> int:
    """The bytes of body and headers, as they go over the wire."""
    return len(response.content) + sum(len(f"{name}: {value}\r\n") for name, value in response.headers.items())


def poll(api: ContractClient, path: str, *, seconds: int, with_tag: bool) -> tuple[int, int]:
    """(bytes of all answers, how many were 304), one a second."""
    sent, unchanged, etag = 0, 0, ""
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _ in range(seconds):
            response = again(api, path, etag) if with_tag and etag else api.get(path)
            sent, unchanged = sent + size_of(response), unchanged + (response.status_code == 304)
            etag = response["ETag"]
            upstream.settle_down()
            clock.shift(1)
    return sent, unchanged


@pytest.mark.parametrize("what", ["tasks", "run"])
def test_a_client_that_polls_each_second_is_sent_almost_nothing(
    alice_api: ContractClient, cast: Cast, trigger: Standin, task: Task, what: str
) -> None:
    tags = [f"account:{cast.alice.pk}"]
    run = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=tags, stuck_as="EXECUTING"))
    path = TASKS if what == "tasks" else f"{RUNS}?runId={run.id}"
    assert poll(alice_api, path, seconds=60, with_tag=True)[1] == 59
    assert trigger.asked["all"] <= (1 if what == "tasks" else 31)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["50 tasks", "an unfinished run"])
def test_ten_minutes_of_polling(
    alice_api: ContractClient, cast: Cast, trigger: Standin, record_property: Any, what: str
) -> None:
    trigger.rate_limit = 0
    hour = (timezone.now().hour + 12) % 24
    for number in range(50):
        made = make_task(
            cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}", schedule=f"{number} {hour} * * *"
        )
        schedule = {"id": f"sched_{number}", "externalId": str(made.pk)}
        for day in range(5):
            created = trigger.state.now - 43_000 - day * 86400
            trigger.state.add_run(StandinRun("t", created, schedule=schedule, kind="SCHEDULED"))
    tags, payload = [f"account:{cast.alice.pk}"], json.dumps({"prompt": "x" * 2000})
    run = trigger.state.add_run(
        StandinRun("t", trigger.state.now - 99, tags=tags, stuck_as="EXECUTING", payload=payload)
    )
    path = TASKS if what == "50 tasks" else f"{RUNS}?runId={run.id}"
    sent = {}
    for with_tag in (False, True):
        trigger.asked.clear()
        cache.clear()
        size, unchanged = poll(alice_api, path, seconds=600, with_tag=with_tag)
        sent[with_tag] = size
        record_property(
            "told",
            f"{what}, polled each second for ten minutes {'with' if with_tag else 'without'} If-None-Match: "
            f"{size:,} bytes, {unchanged} of 600 were a 304, {trigger.asked['all']} Trigger.dev calls",
        )
        upstream.finish()
    assert sent[True] * 5 < sent[False]
