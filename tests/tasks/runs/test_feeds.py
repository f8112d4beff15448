"""Runs of an account that belong to no task: which lists bring them, when these are read, and what is said of them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import time_machine
from django.utils import timezone

from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.models import Run, RunFeed, RunOwner, SharedPoll, Task
from tasks.runs import feeds
from tasks.runs.background import run_steps
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, later, with_key

PATH, RUNS = "/api/tasks/runs", "GET /api/v1/runs"


def add_run(trigger: Standin, *owners: object, age: float = 60, **fields: Any) -> StandinRun:
    tags = [f"account:{account.pk}" for account in owners]  # type: ignore[attr-defined]
    return trigger.state.add_run(StandinRun("create-content", trigger.state.now - age, tags=tags, **fields))


def listed(api: ContractClient) -> list[str]:
    return [run["id"] for run in api.get(PATH).json()["runs"]]


def status(api: ContractClient) -> str:
    return str(api.get(PATH).json()["runs_status"])


# --- What is asked ---------------------------------------------------------------------------------------------------


def test_an_account_is_asked_for_when_it_is_first_watched_and_every_five_minutes_after(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    for _ in range(600):
        assert status(alice_api) == "fresh"
        clock.shift(1)
    own = sum("filter%5Btag%5D" in line for line in trigger.log)
    assert own == 2
    assert 600 / 8 <= trigger.asked["all"] - own <= 600 / 4


def test_whatever_the_limit_a_hundred_runs_are_read_once(alice_api: ContractClient, trigger: Standin) -> None:
    for limit in range(1, 101):
        alice_api.get(PATH, {"limit": str(limit)})
    assert trigger.asked["all"] == 1


def test_many_accounts_share_the_list_of_newest_runs(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    people = (cast.alice, cast.bob, cast.charlie)
    apis = [with_key(make_key(person)) for person in people]
    for api in apis:
        api.get(PATH)
    trigger.asked.clear()
    runs = [add_run(trigger, person, age=0) for person in people]
    clock.shift(6.5)
    for api in apis:
        api.get(PATH)
    assert trigger.asked["all"] == 1
    assert [listed(api) for api in apis] == [[run.id] for run in runs]


def test_with_nobody_watching_nothing_is_asked(alice_api: ContractClient, trigger: Standin) -> None:
    alice_api.get(PATH)
    trigger.asked.clear()
    with later(minutes=5):
        run_steps()
    assert trigger.asked["all"] == 0


def test_a_list_without_tagged_runs_stores_nothing_of_others(
    alice_api: ContractClient, trigger: Standin, clock: time_machine.Traveller
) -> None:
    alice_api.get(PATH)
    add_run(trigger, age=0)
    clock.shift(6.5)
    alice_api.get(PATH)
    assert (trigger.asked["all"], Run.objects.count()) == (2, 0)


# --- What is said of it ----------------------------------------------------------------------------------------------


def test_after_a_pause_the_list_is_stale_until_the_account_is_asked_for_again(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    """What came while nobody watched is older than what the list of newest runs goes back to."""
    assert status(alice_api) == "fresh"
    run = add_run(trigger, cast.alice, age=-1000)
    with later(minutes=60):
        assert (status(alice_api), status(alice_api)) == ("stale", "fresh")
        assert listed(alice_api) == [run.id]


def test_more_new_runs_than_ten_pages_are_left_to_the_accounts_own_lists(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller, monkeypatch: Any
) -> None:
    monkeypatch.setattr(feeds, "MAX_NEWEST_PAGES", 1)
    alice_api.get(PATH)
    clock.shift(6.5)
    alice_api.get(PATH)
    clock.shift(200)
    RunFeed.objects.update(watched_until=timezone.now() + timedelta(minutes=1))
    oldest = add_run(trigger, cast.alice, age=30)
    for _ in range(100):
        add_run(trigger, cast.bob, age=1)
    run_steps()
    assert Run.objects.filter(pk=oldest.id).exists()
    assert status(alice_api) == "fresh"


def test_while_trigger_is_away_the_list_says_since_when(
    alice_api: ContractClient, trigger: Standin, clock: time_machine.Traveller
) -> None:
    before = alice_api.get(PATH).json()
    trigger.faults.add(Fault("hang"))
    clock.shift(30)
    after = alice_api.get(PATH).json()
    assert (after["runs_status"], after["runs_as_of"]) == ("stale", before["runs_as_of"])
    trigger.faults.clear()
    clock.shift(60)
    status(alice_api)
    assert status(alice_api) == "fresh"


def test_a_task_that_is_stale_makes_the_list_stale(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", schedule="* * * * *")
    assert status(alice_api) == "fresh"
    trigger.faults.add(Fault("hang"))
    clock.shift(70)
    RunFeed.objects.update(polled_at=timezone.now())
    assert status(alice_api) == "stale"


# --- Unfinished runs -------------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_followed_to_its_end(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    add_run(trigger, cast.alice, age=0, ends_after=20)
    seen = []
    for _ in range(30):
        body = alice_api.get(PATH).json()
        assert body["runs_status"] == "fresh"
        seen.append(body["runs"][0]["status"])
        clock.shift(1)
    assert seen[-1] == "COMPLETED"
    assert seen.index("COMPLETED") <= 25


def test_an_unfinished_run_beyond_the_newest_hundred_is_retrieved(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    long_ago = add_run(trigger, cast.alice, age=5000, ends_after=5010)
    status(alice_api)
    for _ in range(100):
        add_run(trigger, cast.alice, age=300)
    clock.shift(30)
    for _ in range(2):
        status(alice_api)
    assert Run.objects.get(pk=long_ago.id).status == "COMPLETED"


def test_the_runs_of_a_deleted_task_are_followed_by_its_account(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    schedule = {"id": "sched_a", "externalId": str(task.pk)}
    run = trigger.state.add_run(
        StandinRun("customer-prompt-task", trigger.state.now, schedule=schedule, kind="SCHEDULED", ends_after=10)
    )
    assert listed(alice_api) == [run.id]
    Task.objects.update(deleted_at=timezone.now(), next_poll_at=None, title="")
    trigger.state.remove_run(run.id)
    trigger.state.add_run(replace(run, schedule=None))
    clock.shift(30)
    RunFeed.objects.update(next_poll_at=timezone.now())
    status(alice_api)
    (shown,) = alice_api.get(PATH).json()["runs"]
    assert (shown["id"], shown["status"], shown["task_id"], shown["title"]) == (
        run.id,
        "COMPLETED",
        str(task.pk),
        None,
    )


def test_many_unfinished_runs_of_accounts_are_followed_by_the_shared_list(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    people = (cast.alice, cast.bob, cast.charlie, cast.dora)
    apis = [with_key(make_key(person)) for person in people]
    for api, person in zip(apis, people, strict=True):
        add_run(trigger, person, age=0, ends_after=60)
        api.get(PATH)
    for _ in range(40):
        clock.shift(1)
        for api in apis:
            assert status(api) == "fresh"
    assert SharedPoll.objects.get().as_of is not None
    clock.shift(25)
    for _ in range(4):
        clock.shift(2)
        for api in apis:
            status(api)
    assert not Run.objects.filter(is_final=False).exists()


def test_a_run_that_trigger_has_not_known_for_an_hour_is_removed(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    run = add_run(trigger, cast.alice, stuck_as="EXECUTING")
    assert listed(alice_api) == [run.id]
    trigger.state.remove_run(run.id)
    for _ in range(15):
        clock.shift(300)
        status(alice_api)
    assert listed(alice_api) == []
    assert not RunOwner.objects.exists()
