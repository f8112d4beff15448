"""Polling against the stand-in: what is stored, when a task is due again, and what a lost or late answer changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from typing import cast as typed

import pytest
import time_machine
from django.utils import timezone
from pytest_django import Settings

from accounts.events import account_actor
from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks import writes
from tasks.cron import calendar
from tasks.gateway import upstream
from tasks.models import MissedRun, Run, RunOwner, RunRequest, SharedPoll, Task
from tasks.retention import delete_old_runs
from tasks.runs import due, reading, run_now
from tasks.runs.copies import read_copies
from tasks.runs.polling import LEASE
from tasks.runs.shared import SharedPoller
from tasks.runs.steps import made, step
from tasks.runs.store import store, store_listed
from tasks.runs.task_polls import TaskPoller
from tasks.trigger import types
from tests.cast import TESTER, Cast, make_task

LIST = "GET /api/v1/runs"
RETRIEVE = "GET /api/v3/runs/{id}"
# The clock of these tests stands at noon, and the task fires at noon every day.
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAILY = "0 12 * * *"

pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture
def work(clock: time_machine.Traveller) -> TaskPoller:
    return made(TaskPoller, now=timezone.now)


@pytest.fixture
def task(cast: Cast, work: TaskPoller) -> Task:
    """Fires daily at noon. It was polled an hour ago, and is watched."""
    hour_ago = NOON - timedelta(hours=1)
    created = NOON - timedelta(days=9)
    periods = calendar.confirm(calendar.change([], DAILY, "UTC", at=created), at=created)
    return make_task(
        cast.alice,
        cast.artist,
        schedule=DAILY,
        trigger_schedule_id="sched_a",
        fire_periods=calendar.to_json(periods),
        polled_at=hour_ago,
        deep_polled_at=hour_ago,
        quiet_until=NOON,
        watched_until=NOON + timedelta(days=1),
        schedule_changed_at=NOON - timedelta(days=9),
    )


def add_run(trigger: Standin, *, at: datetime = NOON, schedule_id: str | None = "sched_a", **fields: Any) -> StandinRun:
    schedule = {"id": schedule_id} if schedule_id else None
    return trigger.state.add_run(StandinRun("customer-prompt-task", at.timestamp(), schedule=schedule, **fields))


def poll(work: TaskPoller, task: Task) -> Task:
    assert work.poll(Task.objects.get(pk=task.pk))
    return Task.objects.get(pk=task.pk)


def due_after(task: Task) -> float:
    assert task.next_poll_at is not None
    return (task.next_poll_at - timezone.now()).total_seconds()


# --- What is stored --------------------------------------------------------------------------------------------------


def test_a_run_is_stored_with_its_owner_as_trigger_sent_it(
    task: Task, trigger: Standin, work: TaskPoller, cast: Cast
) -> None:
    sent = add_run(trigger)
    polled = poll(work, task)
    run = Run.objects.get()
    assert (run.pk, run.task, run.status, run.is_scheduled, run.is_final) == (sent.id, task, "QUEUED", True, False)
    assert '"taskKind":"STANDARD"' in run.data
    assert list(RunOwner.objects.values_list("account_id", "created_at")) == [(cast.alice.pk, NOON)]
    assert (polled.last_run_status, polled.unfinished_stored_at) == ("QUEUED", NOON)


def test_a_run_with_another_accounts_tag_is_not_shown_under_the_task(
    task: Task, trigger: Standin, work: TaskPoller, cast: Cast
) -> None:
    add_run(trigger, tags=[f"account:{cast.charlie.pk}"])
    poll(work, task)
    assert Run.objects.get().task is None
    assert RunOwner.objects.get().account_id == cast.charlie.pk


def test_a_tag_that_comes_later_takes_the_run_away_from_the_task(
    task: Task, trigger: Standin, work: TaskPoller, cast: Cast, clock: time_machine.Traveller
) -> None:
    run = add_run(trigger, ends_after=10)
    assert poll(work, task).recent_runs
    trigger.state.remove_run(run.id)
    trigger.state.add_run(replace(run, tags=[f"account:{cast.charlie.pk}"]))
    clock.shift(20)
    polled = poll(work, task)
    assert (Run.objects.get().task, polled.recent_runs, polled.last_run_status) == (None, "", "")
    assert RunOwner.objects.get().account_id == cast.charlie.pk
    trigger.state.remove_run(run.id)
    trigger.state.add_run(replace(run, stuck_as="PENDING"))
    assert poll(work, task).recent_runs == "", "an older copy does not give it back"
    assert RunOwner.objects.get().account_id == cast.charlie.pk


@pytest.mark.parametrize("tags", [["task:{task}"], ["task:{task}", "account:{other}"]])
def test_a_run_that_claims_a_task_without_its_account_is_not_the_tasks(
    task: Task, trigger: Standin, work: TaskPoller, cast: Cast, tags: list[str]
) -> None:
    Task.objects.update(run_by_hand_at=NOON, deep_polled_at=None)
    add_run(trigger, schedule_id=None, tags=[tag.format(task=task.pk, other=cast.charlie.pk) for tag in tags])
    assert poll(work, task).recent_runs == ""
    assert not RunOwner.objects.filter(account_id=cast.alice.pk).exists()


def test_the_first_poll_reads_the_newest_five_and_older_fires_are_never_missed(
    task: Task, trigger: Standin, work: TaskPoller
) -> None:
    Task.objects.update(polled_at=None, fire_periods=[], quiet_until=None)
    for days in range(1, 9):
        add_run(trigger, at=NOON - timedelta(days=days))
    poll(work, task)
    assert (Run.objects.count(), trigger.asked[LIST], MissedRun.objects.count()) == (5, 1, 0)


def test_metadata_over_the_maximum_size_is_left_out_and_said_so(task: Task, trigger: Standin, work: TaskPoller) -> None:
    add_run(trigger, metadata={"log": "x" * 70_000})
    poll(work, task)
    data = Run.objects.get().data
    assert '"metadataOmitted":true' in data
    assert len(data) < 2_000


@pytest.mark.parametrize(
    "broken", [{"createdAt": None}, {"tags": [1, None, "account:x"]}, {"updatedAt": None}, {"startedAt": "yesterday"}]
)
def test_one_broken_item_does_not_break_the_others(broken: dict[str, Any]) -> None:
    good: dict[str, Any] = {"id": "run_a", "status": "COMPLETED", "taskIdentifier": "t", "createdAt": NOON.isoformat()}
    from_list = ids_of_copies([{**good, **broken}, {**good, "id": "run_b"}])
    assert "run_b" in from_list
    assert ("run_a" in from_list) is ("createdAt" not in broken)


def ids_of_copies(items: Any) -> list[str]:
    return [copy.id for copy in read_copies(items)]


def test_a_fire_that_came_ahead_of_its_time_is_not_the_last_one(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    begun = (NOON - timedelta(seconds=30)).isoformat()
    periods = [{"schedule": "* * * * *", "timezone": "UTC", "possible_from": begun, "certain_from": begun}]
    Task.objects.update(schedule="* * * * *", fire_periods=periods)
    add_run(trigger, starts_after=0, ends_after=1)
    clock.shift(45)
    add_run(trigger, at=NOON + timedelta(minutes=1), starts_after=-25, ends_after=-20)
    polled = poll(work, task)
    assert polled.quiet_until is not None
    assert polled.quiet_until <= NOON + timedelta(minutes=2)
    assert polled.next_poll_at is not None
    assert polled.next_poll_at <= NOON + timedelta(minutes=2, seconds=1)


# --- When a task is due again ----------------------------------------------------------------------------------------


def test_a_fire_whose_run_is_not_listed_yet_is_polled_again_within_seconds(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    clock.shift(1)
    assert due_after(poll(work, task)) == 4
    clock.shift(4)
    add_run(trigger, ends_after=5)
    polled = poll(work, task)
    assert polled.last_run_status == "COMPLETED"
    assert due_after(polled) > 3600


def test_an_unfinished_run_is_polled_every_two_seconds_until_it_is_final(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    add_run(trigger, ends_after=10)
    clock.shift(2)
    assert due_after(poll(work, task)) == 2
    clock.shift(9)
    polled = poll(work, task)
    assert (polled.last_run_status, polled.unfinished_stored_at) == ("COMPLETED", None)
    assert due_after(polled) > 3600


def test_a_certain_fire_without_a_run_is_missed_in_time_and_no_longer_when_its_run_comes(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    clock.shift(due.MISSED_AFTER.total_seconds() + 1)
    poll(work, task)
    assert MissedRun.objects.get().expected_at == NOON
    add_run(trigger, ends_after=5)
    Task.objects.update(deep_polled_at=NOON - timedelta(hours=7))
    poll(work, task)
    assert MissedRun.objects.count() == 0


def test_a_failed_poll_changes_nothing_but_the_next_try(task: Task, trigger: Standin, work: TaskPoller) -> None:
    trigger.faults.add(Fault("hang"))
    assert not work.poll(task)
    row = Task.objects.get()
    assert (row.polled_at, due_after(row)) == (task.polled_at, 300)


def test_a_run_outside_the_schedule_is_counted_as_unexpected(
    task: Task, trigger: Standin, work: TaskPoller, caplog: pytest.LogCaptureFixture
) -> None:
    add_run(trigger, at=NOON - timedelta(seconds=90))
    poll(work, task)
    assert "is no fire of its cron expression" in caplog.text


@pytest.mark.parametrize("hours", [1, -1])
def test_other_rules_for_a_time_zone_never_make_a_missed_run(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller, hours: int
) -> None:
    """Trigger.dev fires an hour later or earlier than we compute, and every poll that is due is made."""
    Task.objects.update(next_poll_at=NOON)
    shift = timedelta(hours=hours)
    to_come = [NOON + timedelta(days=day) + shift for day in range(3)]
    while (next_poll := Task.objects.get().next_poll_at or NOON) < NOON + timedelta(days=2, hours=5):
        if to_come and to_come[0] <= next_poll:
            clock.move_to(max(to_come[0], NOON))
            add_run(trigger, at=to_come.pop(0), ends_after=5)
            continue
        clock.move_to(max(next_poll, timezone.now()))
        poll(work, task)
        assert not MissedRun.objects.exists()
    assert not to_come
    fires = calendar.fires(Task.objects.get().calendar, since=NOON, until=NOON + timedelta(hours=22))
    assert [(fire.at, fire.is_certain) for fire in fires[:1]] == [(NOON, False)]
    noon = NOON + timedelta(days=3)
    add_run(trigger, at=noon, ends_after=5)
    clock.move_to(noon + timedelta(seconds=30))
    poll(work, task)
    assert all(period.shift == 0 for period in Task.objects.get().calendar), "it fires at our time again"


# --- Lost, late and contradicting answers ----------------------------------------------------------------------------


def test_a_poll_reads_further_pages_down_to_what_is_in_question(
    task: Task, cast: Cast, trigger: Standin, work: TaskPoller
) -> None:
    """Runs by hand whose answers were lost: no fire says how many to expect."""
    Task.objects.update(run_by_hand_at=NOON, polled_at=NOON - timedelta(seconds=60))
    RunRequest.objects.create(task=task, requested_by=cast.alice, requested_at=NOON, digest="x")
    tags = [f"account:{cast.alice.pk}", f"task:{task.pk}"]
    for seconds in range(12):
        add_run(trigger, at=NOON - timedelta(seconds=seconds), schedule_id=None, tags=tags)
    poll(work, task)
    assert Run.objects.filter(task=task).count() == 12


def test_an_older_copy_never_replaces_a_newer_one(task: Task, trigger: Standin, work: TaskPoller) -> None:
    run = add_run(trigger, stuck_as="EXECUTING", starts_after=50)
    poll(work, task)
    trigger.state.remove_run(run.id)
    trigger.state.add_run(replace(run, stuck_as="PENDING"))
    poll(work, task)
    assert Run.objects.get().status == "EXECUTING"


def test_a_final_status_is_never_undone(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    run = add_run(trigger, ends_after=1)
    clock.shift(5)
    poll(work, task)
    trigger.state.remove_run(run.id)
    trigger.state.add_run(replace(run, stuck_as="EXECUTING", starts_after=4))
    poll(work, task)
    assert Run.objects.get().status == "COMPLETED"


def test_of_two_copies_in_one_poll_the_newer_one_stays(task: Task, trigger: Standin, work: TaskPoller) -> None:
    run = add_run(trigger)
    poll(work, task)
    item = {"id": run.id, "createdAt": NOON.isoformat(), "tags": []}
    final, older = read_copies(
        [
            typed(types.Run, {**item, "status": "COMPLETED", "updatedAt": (NOON + timedelta(seconds=5)).isoformat()}),
            typed(types.Run, {**item, "status": "EXECUTING", "updatedAt": (NOON + timedelta(seconds=2)).isoformat()}),
        ]
    )
    for copies in ([final, older], [older, final]):
        store([(copy, True) for copy in copies], task, as_of=NOON, shared_as_of=NOON, at=NOON)
        assert Run.objects.get().status == "COMPLETED"
    store_listed([older], as_of=NOON, shared_as_of=NOON, at=NOON, with_new=False)
    assert Run.objects.get().status == "COMPLETED"


def test_an_unfinished_run_that_the_list_lacks_is_retrieved(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    run = add_run(trigger, ends_after=10)
    poll(work, task)
    trigger.state.remove_run(run.id)
    trigger.state.add_run(replace(run, schedule=None))
    clock.shift(20)
    poll(work, task)
    assert (Run.objects.get().status, trigger.asked[RETRIEVE]) == ("COMPLETED", 1)


def test_a_run_that_nobody_finds_any_more_keeps_its_task_from_being_fresh(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    run = add_run(trigger, stuck_as="EXECUTING")
    poll(work, task)
    trigger.state.remove_run(run.id)
    clock.shift(20)
    polled = poll(work, task)
    assert (Run.objects.get().absent_at, polled.quiet_until) == (NOON, NOON)
    assert due_after(polled) == 20


def test_the_row_as_it_is_at_the_commit_decides_when_the_task_is_due(
    task: Task, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    """Alice changes the schedule while a poll is running."""
    clock.shift(10)
    add_run(trigger, ends_after=1)

    def edit(request: Request) -> None:
        trigger.before = lambda request: None
        Task.objects.update(
            fire_periods=calendar.to_json(calendar.change(task.calendar, "1 12 * * *", "UTC", at=timezone.now()))
        )

    trigger.before = edit
    assert due_after(poll(work, task)) == 51


def test_a_process_that_dies_after_its_claim_leaves_the_task_due_again(
    task: Task, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    Task.objects.update(next_poll_at=NOON)
    assert [claimed.pk for claimed in work.claim()] == [task.pk]
    assert work.claim() == []
    clock.shift(LEASE.total_seconds())
    assert [claimed.pk for claimed in work.claim()] == [task.pk]


# --- Whose turn it is ------------------------------------------------------------------------------------------------


def test_watched_tasks_are_claimed_first_and_unwatched_ones_are_not_starved(cast: Cast, work: TaskPoller) -> None:
    later = NOON + timedelta(minutes=5)
    for number in range(20):
        watched_until = later if number % 2 else None
        make_task(cast.alice, cast.artist, next_poll_at=NOON - timedelta(hours=1), watched_until=watched_until)
    claimed = work.claim()
    assert [task.watched_until is not None for task in claimed].count(True) == 6
    assert len(claimed) == 8


def test_a_deleted_task_is_never_due(task: Task, trigger: Standin, work: TaskPoller) -> None:
    writes.delete_task(task, actor=TESTER, at=timezone.now())
    assert Task.objects.get().next_poll_at is None
    assert work.claim() == []


def test_a_task_that_is_deleted_during_its_poll_is_never_due_again(
    task: Task, trigger: Standin, work: TaskPoller
) -> None:
    def delete(request: Request) -> None:
        trigger.before = lambda request: None
        writes.delete_task(task, actor=TESTER, at=timezone.now())

    trigger.before = delete
    polled = poll(work, task)
    assert (polled.next_poll_at, polled.watched_poll_at) == (None, None)
    reading.watch([task], SharedPoll(as_of=NOON, next_at=NOON), now=timezone.now())
    assert Task.objects.get().next_poll_at is None


def test_a_failed_poll_does_not_postpone_what_was_planned_meanwhile(
    task: Task, trigger: Standin, work: TaskPoller
) -> None:
    Task.objects.update(next_poll_at=NOON)
    (claimed,) = work.claim()
    Task.objects.poll_soon(at=NOON)
    trigger.faults.add(Fault("status", status=500))
    assert not work.poll(claimed)
    assert due_after(Task.objects.get()) == 0


def test_a_changed_title_leaves_the_next_poll_as_it_is_and_a_changed_schedule_does_not(
    task: Task, trigger: Standin, work: TaskPoller
) -> None:
    Task.objects.update(next_poll_at=NOON + timedelta(hours=5), quiet_until=NOON + timedelta(hours=5))
    writes.update_task(task, {"title": "New"}, actor=TESTER, at=timezone.now())
    assert due_after(Task.objects.get()) == 5 * 3600
    writes.update_task(task, {"schedule": "30 12 * * *"}, actor=TESTER, at=timezone.now())
    row = Task.objects.get()
    assert (due_after(row), row.quiet_until) == (0, NOON)
    assert [period.schedule for period in row.calendar] == [DAILY, "30 12 * * *"]
    assert row.calendar[-1].certain_from is not None, "Trigger.dev has confirmed it"


# --- Many unfinished runs --------------------------------------------------------------------------------------------


@pytest.fixture
def crowd(cast: Cast, trigger: Standin, work: TaskPoller) -> list[Task]:
    """Ten watched tasks, each with a run that is executing."""
    tasks = []
    for number in range(10):
        made = make_task(
            cast.alice,
            cast.artist,
            trigger_schedule_id=f"sched_{number}",
            watched_until=NOON + timedelta(days=1),
            created_at=NOON - timedelta(days=1),
        )
        add_run(trigger, at=NOON - timedelta(seconds=100), schedule_id=f"sched_{number}", ends_after=130)
        tasks.append(poll(work, made))
    trigger.asked.clear()
    return tasks


def test_one_shared_list_follows_all_unfinished_runs(
    crowd: list[Task], trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    clock.shift(3)
    assert made(SharedPoller, now=timezone.now).poll()
    assert (trigger.asked[LIST], SharedPoll.objects.get().as_of) == (1, NOON + timedelta(seconds=3))
    assert Task.objects.filter(next_poll_at__lte=NOON + timedelta(seconds=2)).count() == 0


def test_runs_that_the_shared_list_lacks_are_polled_at_once(
    crowd: list[Task], trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    clock.shift(40)
    assert step(work) == 8
    assert step(work) == 2
    assert set(Run.objects.values_list("status", flat=True)) == {"COMPLETED"}


def test_when_the_shared_list_is_no_longer_worth_it_each_task_is_polled_again(
    crowd: list[Task], trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    clock.shift(3)
    assert made(SharedPoller, now=timezone.now).poll()
    for left in crowd[:2]:
        poll(work, left)
        assert due_after(Task.objects.get(pk=left.pk)) > 60, "the shared list serves it"
    ids = [left.pk for left in crowd[:2]]
    Task.objects.exclude(pk__in=ids).update(watched_until=None)
    clock.shift(10)
    assert not made(SharedPoller, now=timezone.now).poll()
    assert not Task.objects.filter(watched_poll_at__gt=timezone.now()).exists(), "also for who watches again"
    for left in crowd[:2]:
        assert due_after(Task.objects.get(pk=left.pk)) == 0
        poll(work, left)
        assert due_after(Task.objects.get(pk=left.pk)) < 20
    assert not made(SharedPoller, now=timezone.now).poll()
    assert Task.objects.filter(pk__in=ids, next_poll_at__lte=timezone.now()).count() == 0


def test_a_few_unfinished_runs_need_no_shared_list(task: Task, trigger: Standin, work: TaskPoller) -> None:
    add_run(trigger)
    poll(work, task)
    assert not made(SharedPoller, now=timezone.now).poll()


# --- Runs started by hand --------------------------------------------------------------------------------------------


def test_a_started_run_is_stored_before_trigger_lists_it_and_its_answer_replaces_the_copy(
    task: Task, trigger: Standin, work: TaskPoller, cast: Cast, clock: time_machine.Traveller
) -> None:
    Task.objects.update(next_poll_at=NOON + timedelta(hours=5))
    deadline = upstream.deadline_from_now()
    run_id, _ = run_now.start(task, actor=account_actor(cast.alice), at=timezone.now(), deadline=deadline)
    row = Task.objects.get()
    assert (Run.objects.get().pk, row.last_run_status, due_after(row)) == (run_id, "QUEUED", 0)
    clock.shift(15)
    poll(work, task)
    run = Run.objects.get()
    assert (run.status, run.is_scheduled, '"durationMs"' in run.data) == ("COMPLETED", False, True)


def test_a_run_of_the_schedule_that_its_tag_gives_to_another_account_is_not_waited_for(
    task: Task, trigger: Standin, work: TaskPoller, cast: Cast, clock: time_machine.Traveller
) -> None:
    add_run(trigger, tags=[f"account:{cast.charlie.pk}"], ends_after=5)
    for _ in range(3):
        clock.shift(600)
        row = poll(work, task)
        assert (row.recent_runs, row.quiet_until) == ("", NOON + timedelta(days=1))


def test_a_run_by_hand_is_followed_while_the_schedule_of_its_task_is_unknown(
    cast: Cast, trigger: Standin, work: TaskPoller, clock: time_machine.Traveller
) -> None:
    """The answer to the create was lost, and now there is no room for a schedule."""
    past = NOON - timedelta(hours=1)
    task = make_task(cast.alice, cast.artist, synced_generation=0, unsettled_until=past, polled_at=past)
    actor, deadline = account_actor(cast.alice), upstream.deadline_from_now()
    run_now.start(task, actor=actor, at=timezone.now(), deadline=deadline)
    clock.shift(60)
    assert not work.poll(Task.objects.get())
    assert Run.objects.get().status == "COMPLETED"
    assert Task.objects.get().polled_at == past


# --- What a poll costs ----------------------------------------------------------------------------------------------


def test_a_deep_poll_reads_a_hundred_runs_and_not_the_whole_history(
    task: Task, trigger: Standin, work: TaskPoller
) -> None:
    for hours in range(450):
        add_run(trigger, at=NOON - timedelta(hours=2 + hours), ends_after=5)
    Task.objects.update(deep_polled_at=NOON - timedelta(hours=9))
    poll(work, task)
    assert (trigger.asked[LIST], Run.objects.count()) == (1, 100)


def test_a_poll_does_not_read_down_to_a_run_that_has_been_unfinished_for_days(
    task: Task, trigger: Standin, work: TaskPoller
) -> None:
    stuck = add_run(trigger, at=NOON - timedelta(days=30), stuck_as="EXECUTING")
    poll(work, task)
    for hours in range(600):
        add_run(trigger, at=NOON - timedelta(hours=2 + hours), ends_after=5)
    trigger.asked.clear()
    poll(work, task)
    assert (trigger.asked[LIST], trigger.asked[RETRIEVE]) == (1, 1)
    trigger.state.remove_run(stuck.id)
    trigger.state.add_run(replace(stuck, stuck_as=None, ends_after=5))
    poll(work, task)
    assert Run.objects.get(pk=stuck.id).status == "COMPLETED"


def test_a_poll_retrieves_some_of_many_unfinished_runs_and_calls_the_others_stale(
    task: Task, trigger: Standin, work: TaskPoller
) -> None:
    for hours in range(60):
        add_run(trigger, at=NOON - timedelta(hours=2 + hours), stuck_as="EXECUTING")
    Task.objects.update(deep_polled_at=NOON - timedelta(hours=9))
    poll(work, task)
    assert Run.objects.filter(is_final=False).count() == 60
    for _ in range(8):
        trigger.asked.clear()
        poll(work, task)
        assert trigger.asked["all"] <= 6
    row = Task.objects.get()
    status, _ = reading.status_of(row, shared_as_of=due.NEVER, now=timezone.now() + timedelta(seconds=9))
    assert status == "stale"


def test_new_runs_are_inserted_in_one_order_whatever_order_they_were_found_in(
    task: Task, trigger: Standin, work: TaskPoller, django_assert_max_num_queries: Any
) -> None:
    """Two transactions that insert the same runs in different orders would wait for each other."""
    ids = sorted(add_run(trigger, at=NOON - timedelta(seconds=n), ends_after=5).id for n in range(5))
    with django_assert_max_num_queries(40) as captured:
        poll(work, task)
    (inserted,) = (query["sql"] for query in captured.captured_queries if 'INTO "tasks_run" (' in query["sql"])
    places = [inserted.index(run_id) for run_id in ids]
    assert places == sorted(places)


# --- Retention -------------------------------------------------------------------------------------------------------


def test_old_finished_runs_are_deleted_with_their_owners_and_stay_away(
    task: Task, trigger: Standin, work: TaskPoller, settings: Settings
) -> None:
    settings.RUN_RETENTION_DAYS = 500
    add_run(trigger, at=NOON - timedelta(days=401), ends_after=5)
    add_run(trigger, at=NOON - timedelta(days=402), stuck_as="EXECUTING")
    add_run(trigger, at=NOON - timedelta(days=2), ends_after=5)
    Task.objects.update(deep_polled_at=NOON - timedelta(hours=9))
    poll(work, task)
    assert delete_old_runs(before=NOON - timedelta(days=400)) == 1
    assert (Run.objects.count(), RunOwner.objects.count()) == (2, 2)
    settings.RUN_RETENTION_DAYS = 400
    poll(work, task)
    assert Run.objects.count() == 2
