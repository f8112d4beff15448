"""Runs of an account that belong to no task: which lists bring them, when these are read, and what is said of them."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from demo.standin.faults import Fault
from demo.standin.messages import Request, error
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.models import Run, RunFeed, RunOwner, SharedPoll, Task
from tasks.runs import shared, steps
from tasks.runs.feeds import FeedPoller
from tasks.runs.shared import NewestPoller
from tasks.runs.steps import made, run_steps
from tasks.runs.task_polls import TaskPoller
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


def test_whatever_the_limit_a_hundred_runs_are_read_once(
    alice_api: ContractClient, trigger: Standin, clock: time_machine.Traveller
) -> None:
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
    runs = [add_run(trigger, person, age=0, starts_after=0, ends_after=1) for person in people]
    clock.shift(6.5)
    for api in apis:
        api.get(PATH)
    assert trigger.asked["all"] == 1
    assert [listed(api) for api in apis] == [[run.id] for run in runs]


def test_two_hundred_reads_of_both_lists_within_ten_seconds_cost_three_calls(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    for number in range(5):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}", schedule="0 3 * * *")
    for path in (PATH, "/api/tasks"):
        alice_api.get(path)
    trigger.asked.clear()
    for _ in range(100):
        clock.shift(0.1)
        assert status(alice_api) == "fresh"
        assert {task["runs_status"] for task in alice_api.get("/api/tasks").json()["tasks"]} == {"fresh"}
    assert trigger.asked["all"] <= 3


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
    monkeypatch.setattr(shared, "MAX_NEWEST_PAGES", 1)
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
        StandinRun("customer-prompt-task", trigger.state.now, schedule=schedule, kind="SCHEDULED", ends_after=20)
    )
    assert listed(alice_api) == [run.id]
    assert alice_api.delete("/api/tasks", {"id": str(task.pk)}, format="json").status_code == 200
    assert old_while_fresh(alice_api, trigger, run, clock, seconds=40) <= 10
    (shown,) = alice_api.get(PATH).json()["runs"]
    assert (shown["id"], shown["status"], shown["title"]) == (run.id, "COMPLETED", None)


def old_while_fresh(
    api: ContractClient, trigger: Standin, run: StandinRun, clock: time_machine.Traveller, *, seconds: int
) -> float:
    """For how long after its end the run was shown as unfinished in a list called fresh, in seconds."""
    longest = 0.0
    for _ in range(seconds):
        clock.shift(1)
        run_steps()
        body = api.get(PATH).json()
        is_old = any(one["id"] == run.id and one["status"] != "COMPLETED" for one in body["runs"])
        if body["runs_status"] == "fresh" and is_old:
            longest = max(longest, trigger.state.now - run.created - run.ends_after)
    return longest


def test_an_unfinished_run_that_the_newest_list_has_brought_is_followed(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    alice_api.get(PATH)
    clock.shift(8)
    run = add_run(trigger, cast.alice, age=0, ends_after=150)
    assert old_while_fresh(alice_api, trigger, run, clock, seconds=200) <= 10


def test_an_account_that_was_not_watched_knows_that_its_unfinished_run_is_old(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """Others have kept the list of newest runs going, which has brought it."""
    charlie = with_key(make_key(cast.charlie))
    for api in (alice_api, charlie):
        api.get(PATH)
    clock.shift(95)
    for _ in range(2):
        alice_api.get(PATH)
        clock.shift(8)
    add_run(trigger, cast.charlie, age=0, ends_after=30)
    for _ in range(40):
        clock.shift(4)
        alice_api.get(PATH)
    assert status(charlie) == "stale"
    body = charlie.get(PATH).json()
    assert (body["runs_status"], body["runs"][0]["status"]) == ("fresh", "COMPLETED")


def test_a_run_that_many_newer_ones_hide_is_missing_from_nothing_that_is_fresh(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    alice_api.get(PATH)
    clock.shift(5)
    alice_api.get(PATH)
    for _ in range(1100):
        trigger.state.add_run(StandinRun("customer-prompt-task", trigger.state.now, kind="SCHEDULED"))
    add_run(trigger, cast.alice, age=5)
    missing = 0
    for second in range(4, 60, 4):
        clock.shift(4)
        run_steps()
        body = alice_api.get(PATH).json()
        missing = second if body["runs_status"] == "fresh" and not body["runs"] else missing
    assert missing <= 10


def test_huge_runs_of_one_account_do_not_stop_the_newest_list(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    alice_api.get(PATH)
    for _ in range(6):
        add_run(trigger, cast.charlie, age=0, metadata={"x": "y" * 6_000_000})
    clock.shift(8)
    run_steps()
    assert status(alice_api) == "fresh"
    assert Run.objects.filter(data__contains="metadataOmitted").count() == 6


def test_a_list_in_which_nothing_is_new_writes_no_run_and_no_task(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    for _ in range(50):
        alice_api.post(PATH, {"id": str(task.pk)}, format="json")
    for _ in range(4):
        clock.shift(5)
        for path in (PATH, "/api/tasks"):
            alice_api.get(path)
    clock.shift(5)
    with CaptureQueriesContext(connection) as queries:
        assert made(NewestPoller).poll()
    written = [query["sql"] for query in queries if query["sql"].split()[0] in ("UPDATE", "INSERT", "DELETE")]
    assert {sql.split('"')[1] for sql in written} <= {"tasks_sharedpoll", "tasks_runfeed"}


def test_more_runs_than_a_page_since_the_last_poll_are_all_stored(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """While nobody watched."""
    for _ in range(5):
        add_run(trigger, cast.alice, age=100, ends_after=1)
    alice_api.get(PATH)
    clock.shift(3600)
    for number in range(250):
        add_run(trigger, cast.alice, age=3000 - number, ends_after=1)
    for _ in range(2):
        status(alice_api)
    assert (status(alice_api), Run.objects.count()) == ("fresh", 255)


def test_many_unfinished_runs_of_one_account_cost_few_queries(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    alice_api.get(PATH)
    at = {name: timezone.now() for name in ("created_at", "updated_at", "stored_at")}
    times = {"createdAt": "2026-11-24T12:00:00.000Z", "updatedAt": "2026-11-24T12:00:00.000Z"}
    data = json.dumps({"id": "run_x", "status": "QUEUED", "taskIdentifier": "t", **times})
    rows = [Run(id=f"run_{n:06}", status="QUEUED", is_final=False, data=data, **at) for n in range(2000)]
    Run.objects.bulk_create(rows)
    RunOwner.objects.bulk_create(
        RunOwner(run_id=row.pk, account_id=cast.alice.pk, created_at=row.created_at) for row in rows
    )
    clock.shift(10)
    with CaptureQueriesContext(connection) as queries:
        made(FeedPoller).read(RunFeed.objects.get())
    assert len(queries) <= 30
    assert Run.objects.filter(absent_at__isnull=True).count() == 0
    assert status(alice_api) == "stale"


def test_a_shared_list_that_is_too_long_is_given_up_and_tried_again_later(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    people = (cast.alice, cast.bob, cast.charlie, cast.dora)
    apis = [with_key(make_key(person)) for person in people]
    for _ in range(450):
        trigger.state.add_run(StandinRun("other", trigger.state.now, ends_after=60))
    for api, person in zip(apis, people, strict=True):
        add_run(trigger, person, age=0, ends_after=6000)
        api.get(PATH)
    for _ in range(15):
        clock.shift(2)
        assert {status(api) for api in apis} == {"fresh"}
    assert SharedPoll.objects.get().as_of is None
    clock.shift(100)
    trigger.asked.clear()
    for _ in range(60):
        clock.shift(2)
        for api in apis:
            status(api)
    assert SharedPoll.objects.get().pages == 1
    assert SharedPoll.objects.get().as_of is not None


def test_a_delete_makes_no_old_status_fresh(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller, monkeypatch: Any
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    schedule = {"id": "sched_a", "externalId": str(task.pk)}
    trigger.state.add_run(StandinRun("t", trigger.state.now, schedule=schedule, kind="SCHEDULED", ends_after=20))
    alice_api.get(PATH)
    clock.shift(600)
    monkeypatch.setattr(steps, "wake", lambda: None)
    assert alice_api.delete("/api/tasks", {"id": str(task.pk)}, format="json").status_code == 200
    assert status(alice_api) == "stale"


# --- Whose they are --------------------------------------------------------------------------------------------------


def test_a_run_of_two_accounts_shows_the_task_to_its_owner_only(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", title="Secret")
    schedule = {"id": "sched_a", "externalId": str(task.pk)}
    tags = [f"account:{person.pk}" for person in (cast.alice, cast.charlie)]
    trigger.state.add_run(StandinRun("t", trigger.state.now - 60, tags=tags, schedule=schedule, kind="SCHEDULED"))
    shown = [
        (run["task_id"], run["title"])
        for api in (alice_api, with_key(make_key(cast.charlie)))
        for run in api.get(PATH).json()["runs"]
    ]
    assert shown == [(str(task.pk), "Secret"), (None, None)]


@pytest.mark.parametrize("by", ["payload", "schedule"])
def test_a_tag_that_comes_later_takes_the_run_from_whom_it_was_stored_for(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller, by: str
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    named: dict[str, Any] = {
        "payload": {"payload": {"accountId": str(cast.alice.pk)}},
        "schedule": {"schedule": {"id": "sched_a", "externalId": str(task.pk)}, "kind": "SCHEDULED"},
    }
    run = trigger.state.add_run(StandinRun("create-content", trigger.state.now - 5, ends_after=500, **named[by]))
    assert alice_api.get(PATH, {"runId": run.id}).status_code == 200
    trigger.state.remove_run(run.id)
    trigger.state.add_run(replace(run, tags=[f"account:{cast.charlie.pk}"], ends_after=15))
    clock.shift(12)
    assert listed(with_key(make_key(cast.charlie))) == [run.id]
    assert listed(alice_api) == []


def test_a_run_of_ours_is_listed_at_the_time_that_trigger_says(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    alice_api.get(PATH)
    trigger.before = lambda request: clock.shift(1.5) if request.method == "POST" else None
    alice_api.post(PATH, {"id": str(task.pk)}, format="json")
    trigger.before = lambda request: None
    for _ in range(10):
        clock.shift(3)
        status(alice_api)
    (run,) = alice_api.get(PATH).json()["runs"]
    assert len(alice_api.get(PATH, {"created_after": run["createdAt"]}).json()["runs"]) == 1


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


def test_an_account_follows_its_run_that_belongs_to_the_task_of_another_one(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """By its tags the run is Charlie's too, and nobody watches the task."""
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    tags = [f"account:{account.pk}" for account in (cast.alice, cast.charlie)]
    schedule = {"id": "sched_a", "externalId": str(task.pk)}
    found = StandinRun("t", trigger.state.now, tags=tags, kind="SCHEDULED", ends_after=200, schedule=schedule)
    run = trigger.state.add_run(found)
    alice_api.get(PATH)
    charlie_api = with_key(make_key(cast.charlie))
    assert old_while_fresh(charlie_api, trigger, run, clock, seconds=500) <= 10


def spend_a_week_with_1300_runs(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """Nobody has looked for so long."""
    add_run(trigger, cast.alice, age=60)
    alice_api.get(PATH)
    clock.shift(7 * 86400)
    for number in range(1300):
        add_run(trigger, cast.alice, age=3600 + number * 60)


def test_more_new_runs_than_one_poll_reads_are_read_by_later_ones(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    spend_a_week_with_1300_runs(alice_api, cast, trigger, clock)
    for _ in range(4):
        body = alice_api.get(PATH).json()
        assert body["runs_status"] == "stale" or Run.objects.count() == 1301
        run_steps()
        clock.shift(11)
        run_steps()
    assert (alice_api.get(PATH).json()["runs_status"], Run.objects.count()) == ("fresh", 1301)


def test_new_runs_are_stored_while_the_rest_of_too_many_cannot_be_read(
    alice_api: ContractClient,
    cast: Cast,
    trigger: Standin,
    clock: time_machine.Traveller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spend_a_week_with_1300_runs(alice_api, cast, trigger, clock)
    made(FeedPoller).poll(RunFeed.objects.get())
    gap_after, answer = RunFeed.objects.get().gap_after, trigger.answer

    def fail_at_the_gap(request: Request) -> Any:
        return error(500, "broken") if gap_after in request.target else answer(request)

    monkeypatch.setattr(trigger, "answer", fail_at_the_gap)
    new = add_run(trigger, cast.alice, age=1)
    made(FeedPoller).poll(RunFeed.objects.get())
    assert Run.objects.filter(pk=new.id).exists()
    assert RunFeed.objects.get().gap_after == gap_after


def test_the_task_of_another_account_knows_that_its_run_was_not_found(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """The run is Charlie's too, whose list has lacked it."""
    now, ahead = timezone.now(), timezone.now() + timedelta(days=1)
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", watched_until=ahead)
    tags = [f"account:{account.pk}" for account in (cast.alice, cast.charlie)]
    schedule = {"id": "sched_a", "externalId": str(task.pk)}
    found = StandinRun("t", trigger.state.now, tags=tags, kind="SCHEDULED", stuck_as="EXECUTING", schedule=schedule)
    run = trigger.state.add_run(found)
    RunFeed.objects.create(account_id=cast.charlie.pk, next_poll_at=now, watched_until=ahead, polled_at=now)
    made(TaskPoller, now=timezone.now).poll(task)
    clock.shift(60)
    trigger.state.remove_run(run.id)
    made(FeedPoller, now=timezone.now).poll(RunFeed.objects.get())
    row = Task.objects.get()
    assert Run.objects.get().absent_at == row.quiet_until == now
    assert row.next_poll_at is not None
    assert row.next_poll_at <= timezone.now()
