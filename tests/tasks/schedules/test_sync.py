"""sync_schedules: it finishes what is pending, repairs drift, deletes what has no task, and touches nothing else."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinSchedule
from tasks.gateway import upstream
from tasks.management.commands.sync_schedules import Command, Stopped, line
from tasks.models import SyncStatus, Task
from tasks.schedules.pacing import Pace
from tasks.schedules.planning import Step
from tasks.schedules.reconciliation import run_pass
from tasks.schedules.report import Change, Options, Progress, Report, Result, Status
from tasks.schedules.settling import claim_task
from tasks.schedules.sync_lock import sync_lock
from tests.cast import Cast, make_task

FULL = Options(full=True)
PRUNE = Options(full=True, prune=True)
TASK = "customer-prompt-task"


class Clock:
    """Time passes only when somebody waits."""

    def __init__(self, coordinates: time_machine.Traveller) -> None:
        self.coordinates, self.waits = coordinates, list[float]()

    @property
    def now(self) -> datetime:
        return timezone.now()

    def wait(self, seconds: float, why: str) -> None:
        self.waits.append(seconds)
        self.coordinates.shift(seconds)


@pytest.fixture
def clock() -> Iterator[Clock]:
    with time_machine.travel(timezone.now(), tick=False) as coordinates:
        yield Clock(coordinates)


Sync = Callable[..., Report]


@pytest.fixture
def run(clock: Clock) -> Sync:
    def run(options: Options = FULL) -> Report:
        pace = Pace(upstream.client(), now=lambda: clock.now, wait=clock.wait)
        return run_pass(options, pace=pace, progress=Progress())

    return run


def steps(report: Report) -> list[tuple[Result, Step]]:
    return [(change.result, change.step) for change in report.changes]


def done(*expected: Step) -> list[tuple[Result, Step]]:
    return [(Result.DONE, step) for step in expected]


@pytest.fixture
def task(cast: Cast, trigger: Standin, run: Sync) -> Task:
    """One that Trigger.dev has."""
    made = make_task(cast.alice, cast.artist, synced_generation=0)
    run(Options())
    return Task.objects.get(pk=made.pk)


def put(trigger: Standin, **fields: Any) -> StandinSchedule:
    made = {"task": TASK, "cron": "0 9 * * *", "created": trigger.state.now, "active": True, **fields}
    return trigger.state.put_schedule(StandinSchedule(**made))


def held(trigger: Standin, task: Task) -> StandinSchedule:
    found = trigger.state.schedule(str(task.pk))
    assert found is not None
    return found


def writes(trigger: Standin) -> int:
    return sum(number for name, number in trigger.asked.items() if name.split()[0] in ("POST", "PUT", "DELETE"))


# --- What is not settled ---------------------------------------------------------------------------------------------


def test_a_task_that_trigger_never_heard_of_gets_its_schedule(cast: Cast, trigger: Standin, run: Sync) -> None:
    made = make_task(cast.alice, cast.artist, synced_generation=0, timezone="Asia/Kolkata")
    report = run(Options())
    assert (report.status, steps(report)) == (Status.IN_SYNC, done(Step.CREATE))
    assert (held(trigger, made).timezone, held(trigger, made).external_id) == ("Asia/Calcutta", str(made.pk))
    assert Task.objects.get().sync_status is SyncStatus.IN_SYNC


def test_in_sync_it_asks_nothing_at_all(task: Task, trigger: Standin, run: Sync) -> None:
    trigger.asked.clear()
    report = run(Options())
    assert (report.status, report.changes, trigger.asked["all"]) == (Status.IN_SYNC, [], 0)


def test_what_may_take_effect_late_is_waited_out(cast: Cast, trigger: Standin, run: Sync, clock: Clock) -> None:
    """The first request is given up, and takes effect while the command waits."""
    make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("late", method="POST", times=1))
    report = run(Options())
    assert report.status is Status.IN_SYNC
    assert sum(clock.waits) > 60
    trigger.do_late()
    assert trigger.state.count_schedules() == 1


def test_the_lease_of_a_killed_worker_is_waited_out(cast: Cast, trigger: Standin, run: Sync, clock: Clock) -> None:
    made = make_task(cast.alice, cast.artist, synced_generation=0)
    assert claim_task(made.pk, at=clock.now)
    assert run(Options()).status is Status.IN_SYNC
    assert held(trigger, made).active


def test_a_mark_is_not_renewed_by_looking_too_early(task: Task, trigger: Standin, run: Sync, clock: Clock) -> None:
    Task.objects.update(unsettled_until=clock.now + timedelta(seconds=40))
    assert run(Options()).status is Status.IN_SYNC
    assert 40 <= sum(clock.waits) < 45


def test_a_deleted_tasks_late_schedule_is_deleted(task: Task, trigger: Standin, run: Sync, clock: Clock) -> None:
    Task.objects.update(deleted_at=clock.now, title="", prompt="", generation=2)
    report = run(Options())
    assert steps(report) == done(Step.DELETE)
    assert trigger.state.count_schedules() == 0


def test_a_429_is_waited_for_and_fails_nothing(cast: Cast, trigger: Standin, run: Sync, clock: Clock) -> None:
    make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("rate_limit", seconds=7, times=2))
    assert run(FULL).status is Status.IN_SYNC
    assert sum(clock.waits) > 12


def test_half_of_the_allowance_is_left_to_the_service(cast: Cast, trigger: Standin, run: Sync, clock: Clock) -> None:
    trigger.rate_limit, trigger.state.clock = 30, lambda: clock.now
    for _ in range(20):
        make_task(cast.alice, cast.artist, synced_generation=0)
    run(Options())
    _, headers = trigger.take_token("tr_prod_tests")
    assert int(headers["x-ratelimit-remaining"]) >= 10
    assert trigger.state.count_schedules() == 20


def test_what_is_refused_is_named_with_its_reason(cast: Cast, trigger: Standin, run: Sync) -> None:
    made = make_task(cast.alice, cast.artist, synced_generation=0)
    other = make_task(cast.alice, cast.artist, synced_generation=0)
    message = "You have created 5/5 schedules"

    def refuse(request: Request) -> None:
        trigger.faults.clear()
        if str(made.pk).encode() in request.body:
            trigger.faults.add(Fault("status", status=422, message=message))

    trigger.before = refuse
    report = run(Options())
    assert report.status is Status.FAILED
    (failure,) = [change for change in report.changes if change.result is Result.FAILED]
    assert (failure.task_id, message in failure.reason) == (made.pk, True)
    assert held(trigger, other).active


def test_while_trigger_is_away_it_gives_up_early_and_says_how_many_are_left(
    cast: Cast, trigger: Standin, run: Sync
) -> None:
    for _ in range(30):
        make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("hang"))
    report = run(FULL)
    assert report.status is Status.FAILED
    assert "Trigger.dev is unavailable: 10 calls in a row were not answered" in report.problems[0]
    assert run(replace(FULL, is_dry=True)).status is Status.FAILED
    assert trigger.asked["all"] <= 40
    assert Task.objects.count() == 30


@pytest.mark.parametrize("kind", ["status", "garbage"])
def test_a_bad_answer_is_an_answer_and_the_others_are_still_settled(
    cast: Cast, trigger: Standin, run: Sync, kind: Any
) -> None:
    """Eleven tasks in a row that Trigger.dev cannot deal with, and one that it can."""
    broken = [make_task(cast.alice, cast.artist, synced_generation=0) for _ in range(11)]
    well = make_task(cast.alice, cast.artist, synced_generation=0)

    def meet(request: Request) -> None:
        trigger.faults.clear()
        if any(str(task.pk) in request.target or str(task.pk).encode() in request.body for task in broken):
            trigger.faults.add(Fault(kind))

    trigger.before = meet
    report = run(Options())
    failed = {change.task_id for change in report.changes if change.result is Result.FAILED}
    assert (report.status, failed) == (Status.FAILED, {task.pk for task in broken})
    assert held(trigger, well).active


def test_a_429_whose_reset_has_passed_is_no_failure_of_a_task(cast: Cast, trigger: Standin, run: Sync) -> None:
    make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("rate_limit", seconds=0, times=4))
    assert run(FULL).status is Status.IN_SYNC


@pytest.mark.parametrize("is_dry", [False, True])
def test_a_limit_that_never_ends_ends_the_pass(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock, is_dry: bool
) -> None:
    for _ in range(30):
        make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("rate_limit", seconds=10))
    report = run(Options(is_dry=is_dry))
    assert (report.status, len(report.problems), report.changes) == (Status.FAILED, 1, [])
    assert sum(clock.waits) < 150


@pytest.mark.parametrize("column", ["unsettled_until", "lease_until"])
def test_what_a_wrong_clock_wrote_is_not_waited_for(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock, column: str
) -> None:
    made = make_task(cast.alice, cast.artist, synced_generation=0, **{column: clock.now + timedelta(days=30)})
    assert run(Options()).status is Status.IN_SYNC
    assert held(trigger, made).active
    assert sum(clock.waits) < 200


# --- Drift -----------------------------------------------------------------------------------------------------------


DRIFT: dict[str, tuple[dict[str, Any], Step]] = {
    "moved to another cron": ({"cron": "5 5 * * *"}, Step.REPLACE),
    "moved to another zone": ({"timezone": "Europe/Paris"}, Step.REPLACE),
    "named for nobody": ({"external_id": None}, Step.REPLACE),
    "deactivated": ({"active": False}, Step.ACTIVATE),
    "moved and deactivated": ({"cron": "5 5 * * *", "active": False}, Step.RESUME),
}


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_is_repaired_and_a_second_pass_does_nothing(task: Task, trigger: Standin, run: Sync, drift: str) -> None:
    changes, step = DRIFT[drift]
    former = held(trigger, task)
    trigger.state.put_schedule(replace(former, **changes))
    assert steps(run(Options(full=True, is_dry=True))) == [(Result.PLANNED, step)]
    assert held(trigger, task) == replace(former, **changes), "a dry run changes nothing"
    assert steps(run(FULL)) == done(step)
    now = held(trigger, task)
    assert (now.id, now.cron, now.timezone, now.external_id, now.active) == (
        *(former.id, task.schedule, task.timezone, str(task.pk)),
        True,
    )
    assert (run(PRUNE).changes, Task.objects.get().sync_status) == ([], SyncStatus.IN_SYNC)


def test_a_lost_schedule_is_made_again(task: Task, trigger: Standin, run: Sync) -> None:
    trigger.state.remove_schedule(held(trigger, task).id)
    put(trigger, key="other", external_id="other", task="create-content")
    assert steps(run(FULL)) == done(Step.CREATE)
    assert Task.objects.get().trigger_schedule_id == held(trigger, task).id


def test_a_paused_task_is_paused_again(task: Task, trigger: Standin, run: Sync) -> None:
    Task.objects.update(enabled=False)
    assert steps(run(FULL)) == done(Step.DEACTIVATE)
    assert not held(trigger, task).active


def test_a_plain_pass_does_not_look_for_drift(task: Task, trigger: Standin, run: Sync) -> None:
    trigger.state.put_schedule(replace(held(trigger, task), active=False))
    assert run(Options()).changes == []


def test_a_second_schedule_of_a_task_goes(task: Task, trigger: Standin, run: Sync) -> None:
    """Without a key, as Trigger.dev makes one when a schedule is replaced that has vanished."""
    for number in range(10):
        put(trigger, key=f"other {number}", task="create-content")
    second = put(trigger, external_id=str(task.pk), cron="1 1 * * *")
    assert run(FULL).problems, "one of two of ours is more than 10 %"
    assert steps(run(replace(FULL, yes=True))) == done(Step.DELETE)
    assert trigger.state.schedule(second.id) is None
    assert held(trigger, task).active


def test_the_only_schedule_of_a_task_is_no_second_one(cast: Cast, trigger: Standin, run: Sync) -> None:
    """The row knows another one, which is gone, and no new one can be made."""
    fill(cast, trigger, 20)
    made = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_gone")
    working = put(trigger, external_id=str(made.pk))
    refusal = "You have created 20/20 schedules"
    trigger.faults.add(Fault("status", method="POST", status=422, message=refusal))
    assert run(FULL).status is Status.IN_SYNC
    assert trigger.state.schedule(working.id) == working
    assert Task.objects.get(pk=made.pk).trigger_schedule_id == working.id


def test_a_second_one_stays_while_the_first_is_not_right(cast: Cast, trigger: Standin, run: Sync) -> None:
    fill(cast, trigger, 20)
    made = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_gone", synced_generation=0)
    working = put(trigger, external_id=str(made.pk))
    trigger.faults.add(Fault("status", method="POST", status=422, message="You have created 20/20 schedules"))
    assert run(FULL).status is Status.FAILED
    assert trigger.state.schedule(working.id) == working


def test_a_schedule_without_a_key_that_the_row_does_not_know_is_adopted(
    cast: Cast, trigger: Standin, run: Sync
) -> None:
    """A paused task had one that fired on."""
    made = make_task(cast.alice, cast.artist, enabled=False)
    put(trigger, external_id=str(made.pk))
    assert run(replace(FULL, is_dry=True)).status is Status.DRIFT
    assert steps(run(FULL)) == done(Step.DEACTIVATE)
    assert not trigger.state.schedules()[0].active
    assert run(PRUNE).changes == []


def test_a_foreign_schedule_that_starts_our_task_too_is_named(task: Task, trigger: Standin, run: Sync) -> None:
    foreign = put(trigger, key="doubled", external_id=str(task.pk))
    report = run(PRUNE)
    assert (report.status, trigger.state.schedule(foreign.id)) == (Status.IN_SYNC, foreign)
    assert foreign.id in report.notes[0]


def test_the_row_learns_the_id_of_its_schedule(task: Task, trigger: Standin, run: Sync) -> None:
    Task.objects.update(trigger_schedule_id="sched_old")
    assert run(replace(FULL, is_dry=True)).status is Status.DRIFT
    assert run(FULL).status is Status.IN_SYNC
    assert Task.objects.get().trigger_schedule_id == held(trigger, task).id


# --- Schedules without a task, and those of others -------------------------------------------------------------------


def orphan(trigger: Standin, number: int = 1) -> StandinSchedule:
    task_id = f"00000000-0000-4000-8000-{number:012d}"
    return put(trigger, key=task_id, external_id=task_id)


def others(trigger: Standin, task: Task) -> list[StandinSchedule]:
    """Everything in the project that looks a little like ours."""
    foreign = "11111111-2222-4333-8444-555555555555"
    gone = "00000000-0000-4000-8000-00000000dead"
    return [
        put(trigger, key="nightly", external_id=None),
        put(trigger, key=None, external_id="nightly"),
        put(trigger, key=None, external_id=None),
        put(trigger, key=foreign, external_id=None),
        put(trigger, key=foreign[::-1], external_id=gone),
        put(trigger, key=f"staging-{gone}", external_id=gone),
        put(trigger, key=None, external_id=gone, task="create-content"),
        put(trigger, key=None, external_id=gone, kind="DECLARATIVE"),
        put(trigger, key=None, external_id=str(task.pk), kind="DECLARATIVE"),
        put(trigger, key=f"{task.pk}-copy", external_id=str(task.pk)),
        put(trigger, key=gone.upper(), external_id=gone),
    ]


@pytest.mark.parametrize("options", [Options(), FULL, PRUNE, replace(PRUNE, yes=True), replace(PRUNE, is_dry=True)])
def test_schedules_of_others_are_untouched(task: Task, trigger: Standin, run: Sync, options: Options) -> None:
    theirs = others(trigger, task)
    before = writes(trigger)
    assert (run(options).changes, writes(trigger)) == ([], before)
    assert [trigger.state.schedule(schedule.id) for schedule in theirs] == theirs


@pytest.mark.parametrize("fields", [{"kind": "DECLARATIVE"}, {"external_id": "theirs"}, {"task": "create-content"}])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_row_that_names_somebody_elses_schedule_does_not_take_it(
    cast: Cast, trigger: Standin, run: Sync, fields: dict[str, Any], is_deleted: bool
) -> None:
    theirs = put(trigger, **fields, cron="3 3 * * *")
    gone = {"deleted_at": timezone.now(), "title": "", "prompt": ""} if is_deleted else {}
    make_task(cast.alice, cast.artist, trigger_schedule_id=theirs.id, synced_generation=0, **gone)
    assert run(PRUNE).status is Status.IN_SYNC
    assert trigger.state.schedule(theirs.id) == theirs
    assert trigger.state.count_schedules() == (1 if is_deleted else 2)


def test_what_has_no_task_fires_until_it_is_pruned(task: Task, trigger: Standin, run: Sync) -> None:
    for number in range(10):
        put(trigger, key=f"other {number}")
    lost = [orphan(trigger)]
    without = run(FULL)
    assert (without.status, without.changes, without.orphans) == (Status.FAILED, [], [lost[0].id])
    assert lost[0].id in without.notes[0]
    dry = run(replace(FULL, is_dry=True))
    assert (dry.status, dry.changes) == (Status.DRIFT, []), "it plans what the same options would do"
    assert run(replace(PRUNE, is_dry=True, yes=True)).status is Status.DRIFT
    assert steps(run(replace(PRUNE, yes=True))) == done(Step.DELETE)
    assert trigger.state.schedule(lost[0].id) is None
    assert held(trigger, task).active


@pytest.mark.parametrize(("ours", "lost", "is_much"), [(20, 2, False), (5, 1, True), (200, 11, True), (200, 10, False)])
def test_many_are_not_deleted_without_a_second_word(
    cast: Cast, trigger: Standin, run: Sync, ours: int, lost: int, is_much: bool
) -> None:
    for number in range(ours - lost):
        made = make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
        put(trigger, id=f"sched_{number}", key=str(made.pk), external_id=str(made.pk))
    for number in range(lost):
        orphan(trigger, number)
    report = run(PRUNE)
    assert trigger.state.count_schedules() == (ours if is_much else ours - lost)
    assert (report.status is Status.FAILED) is is_much
    assert any("--yes" in problem for problem in report.problems) is is_much
    assert run(replace(PRUNE, yes=True)).status is Status.IN_SYNC
    assert trigger.state.count_schedules() == ours - lost


def test_each_is_looked_at_again_before_it_goes(cast: Cast, trigger: Standin, run: Sync) -> None:
    """The task of one, and the owner of another, appear after the list was read."""
    first, second, third = (orphan(trigger, number) for number in (1, 2, 3))

    def meanwhile(request: Request) -> None:
        if "page=" in request.target:
            make_task(cast.alice, cast.artist, id=first.external_id, trigger_schedule_id=first.id)
            trigger.state.put_schedule(replace(second, external_id="somebody's"))

    trigger.after = meanwhile
    report = run(replace(PRUNE, yes=True))
    assert [change.schedule_id for change in report.changes] == [third.id]
    assert {schedule.id for schedule in trigger.state.schedules()} == {first.id, second.id}


def test_one_account_only(cast: Cast, task: Task, trigger: Standin, run: Sync) -> None:
    theirs = make_task(cast.charlie, cast.artist, synced_generation=0)
    trigger.state.put_schedule(replace(held(trigger, task), active=False))
    gone = make_task(cast.charlie, cast.artist, deleted_at=timezone.now(), title="", prompt="")
    put(trigger, key=str(gone.pk), external_id=str(gone.pk))
    lost = orphan(trigger)
    report = run(replace(PRUNE, account=cast.charlie, yes=True))
    assert {change.task_id for change in report.changes} == {theirs.pk, gone.pk}
    assert not held(trigger, task).active
    assert trigger.state.schedule(lost.id) == lost


# --- A list that cannot be believed, or read -------------------------------------------------------------------------


def fill(cast: Cast, trigger: Standin, count: int) -> list[Task]:
    tasks = [make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}") for number in range(count)]
    for number, made in enumerate(tasks):
        put(trigger, id=f"sched_{number}", key=str(made.pk), external_id=str(made.pk), created=float(number))
    return tasks


def test_a_poisoned_page_is_read_schedule_by_schedule(cast: Cast, trigger: Standin, run: Sync) -> None:
    tasks = fill(cast, trigger, 250)
    put(trigger, key="poison", created=120.5, poisoned=True)
    put(trigger, key="poison too", created=121.5, poisoned=True)
    trigger.state.put_schedule(replace(held(trigger, tasks[119]), active=False))
    trigger.asked.clear()
    report = run(PRUNE)
    assert (report.status, steps(report)) == (Status.IN_SYNC, done(Step.ACTIVATE))
    assert "cannot show 2 of its schedules" in report.notes[0]
    assert trigger.asked["GET /api/v1/schedules"] < 50


def test_our_own_poisoned_schedule_is_a_failure_that_is_named(cast: Cast, trigger: Standin, run: Sync) -> None:
    tasks = fill(cast, trigger, 12)
    trigger.state.put_schedule(replace(held(trigger, tasks[5]), poisoned=True))
    report = run(FULL)
    assert [(change.result, change.task_id) for change in report.changes] == [(Result.FAILED, tasks[5].pk)]


def test_a_trigger_that_fails_is_not_taken_for_poison(cast: Cast, trigger: Standin, run: Sync) -> None:
    fill(cast, trigger, 3)
    trigger.faults.add(Fault("status", status=500))
    report = run(PRUNE)
    assert (report.status, report.changes) == (Status.FAILED, [])
    assert trigger.asked["all"] < 60


def test_an_empty_list_without_a_deployment_is_not_believed(cast: Cast, trigger: Standin, run: Sync) -> None:
    fill(cast, trigger, 3)
    trigger.state.deployed = False
    report = run(replace(PRUNE, yes=True))
    assert (report.status, report.changes) == (Status.FAILED, [])
    assert "nothing may be deployed" in report.problems[0]
    assert trigger.state.count_schedules() == 3


def test_an_empty_list_that_is_true_is_filled_again(cast: Cast, trigger: Standin, run: Sync) -> None:
    tasks = fill(cast, trigger, 3)
    for number in range(3):
        trigger.state.remove_schedule(f"sched_{number}")
    assert run(FULL).status is Status.IN_SYNC
    assert all(held(trigger, task).active for task in tasks)


def test_a_dry_run_costs_a_call_a_page_and_one_a_difference(cast: Cast, trigger: Standin, run: Sync) -> None:
    tasks = fill(cast, trigger, 250)
    trigger.state.put_schedule(replace(held(trigger, tasks[7]), cron="1 1 * * *"))
    trigger.asked.clear()
    report = run(replace(PRUNE, is_dry=True))
    assert (report.status, trigger.asked["all"]) == (Status.DRIFT, 3 + 1)


@pytest.mark.slow
def test_10_000_tasks_in_sync_cost_100_calls(cast: Cast, trigger: Standin, run: Sync) -> None:
    trigger.rate_limit = 0
    fill(cast, trigger, 10_000)
    report = run(replace(PRUNE, is_dry=True))
    assert (report.status, report.tasks, trigger.asked["all"]) == (Status.IN_SYNC, 10_000, 100)


# --- The command -----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str, str]:
    """(exit status, output, errors)"""
    output, errors = StringIO(), StringIO()
    try:
        call_command("sync_schedules", *arguments, stdout=output, stderr=errors)
    except SystemExit as end:
        return int(end.code or 0), output.getvalue(), errors.getvalue()
    return 0, output.getvalue(), errors.getvalue()


def test_its_exit_statuses(cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist, synced_generation=0)
    assert command("--dry-run")[0] == 2
    assert command() == (0, line_of(Step.CREATE) + "In sync: 1 task, 1 done.\n", "")
    assert command() == (0, "In sync: 1 task.\n", "")
    trigger.faults.add(Fault("status", status=401, message="Invalid or Missing API Key"))
    status, output, errors = command("--full")
    assert (status, output) == (1, "Not in sync: 1 task.\n")
    assert "401, Invalid or Missing API Key" in errors
    assert command("--full", "--dry-run")[0] == 1


def test_a_second_one_is_refused(db: None) -> None:
    with sync_lock(), pytest.raises(CommandError, match="Another sync_schedules is running") as refusal:
        call_command("sync_schedules")
    assert refusal.value.returncode == 3


def line_of(step: Step) -> str:
    task = Task.objects.get()
    return line(Change(Result.DONE, step, task.pk, task.trigger_schedule_id)) + "\n"


def test_it_prints_json(cast: Cast, trigger: Standin) -> None:
    made = make_task(cast.alice, cast.artist, synced_generation=0)
    status, output, _ = command("--json", "--dry-run", "--account", "alice@example.com")
    change = {"result": "planned", "step": "create", "task_id": str(made.pk), "schedule_id": None, "reason": ""}
    assert json.loads(output) == {
        **{"status": "drift", "dry_run": True, "tasks": 1, "changes": [change], "problems": [], "notes": []}
    }
    assert status == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--prune"], "--prune needs --full"),
        (["--watch", "0.5"], "from 1 to 86400 seconds"),
        (["--watch", "nan"], "from 1 to 86400 seconds"),
        (["--watch", "1e12"], "from 1 to 86400 seconds"),
        (["--account", "nobody@example.com"], "No account"),
    ],
)
def test_what_it_cannot_do_is_said(db: None, arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("sync_schedules", *arguments)


def test_another_environment_is_refused_before_anything_is_asked(
    task: Task, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_NAMESPACE = "staging-"
    Task.objects.update(generation=2)
    trigger.asked.clear()
    status, _, errors = command("--full", "--prune", "--yes")
    assert (status, trigger.asked["all"]) == (1, 0)
    assert "accept_trigger_environment" in errors


class Watch(Command):
    """Sleeps no second, and is ended when it wants to sleep between two passes for the third time."""

    PAUSE = 60.0

    def __init__(self, between: Callable[[], object]) -> None:
        super().__init__(stdout=StringIO(), stderr=StringIO())
        self.between, self.passes = between, 0
        self.sleep = self.sleep_or_end

    def sleep_or_end(self, seconds: float) -> None:
        if seconds == self.PAUSE:
            self.between()
            self.passes += 1
            if self.passes == 3:
                raise Stopped

    def run_passes(self) -> tuple[str, str]:
        self.watch(Options(), pause=self.PAUSE, as_json=False)
        return self.stdout.getvalue(), self.stderr.getvalue()


def test_watching_goes_on_past_a_pass_that_failed(cast: Cast, trigger: Standin) -> None:
    made = make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("status", status=401, message="Invalid or Missing API Key"))
    output, errors = Watch(trigger.faults.clear).run_passes()
    assert held(trigger, made).active
    assert (output.count("Not in sync: 1 task"), output.count("In sync: 1 task")) == (1, 2)
    assert errors.endswith("Stopped.\n")


def test_a_term_in_the_middle_of_a_call_ends_the_watch(cast: Cast, trigger: Standin) -> None:
    def stop(request: Request) -> None:
        raise Stopped

    made = make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.before = stop
    output, errors = Watch(lambda: None).run_passes()
    assert (output, errors) == ("", "Stopped.\n")
    assert Task.objects.get(pk=made.pk).sync_error == ""


def test_it_says_in_json_that_it_is_running_already(db: None) -> None:
    output = StringIO()
    with sync_lock(), pytest.raises(CommandError):
        call_command("sync_schedules", "--json", stdout=output)
    assert json.loads(output.getvalue()) == {"status": "already_running"}


def test_its_help_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Command().run_from_argv(["manage.py", "sync_schedules", "--help"])
    assert "10 % of ours" in " ".join(capsys.readouterr().out.split())


def test_a_pass_while_another_runs_is_left_to_it(db: None) -> None:
    with sync_lock():
        _, errors = Watch(lambda: None).run_passes()
    assert errors.count("this pass is skipped") == 3


def test_the_lock_is_free_again(db: None) -> None:
    """Also after an exception: a connection of the pool would keep it."""
    with suppress(ZeroDivisionError), sync_lock():
        raise ZeroDivisionError
    for _ in range(2):
        with sync_lock() as is_ours, sync_lock() as is_anothers:
            assert (is_ours, is_anothers) == (True, False)


@pytest.mark.django_db(transaction=True)
def test_a_row_that_somebody_holds_does_not_end_the_pass(transactional_db: None, cast: Cast, trigger: Standin) -> None:
    """Where the database locks rows; SQLite is one lock as a whole, and the pass says that it failed."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no locks of rows")
    locked, free = (make_task(cast.alice, cast.artist, synced_generation=0) for _ in range(2))
    other = connection.copy()
    other.set_autocommit(False)
    with closing(other), other.cursor() as cursor, connection.cursor() as ours:
        ours.execute("SET lock_timeout = '50ms'")
        cursor.execute("SELECT 1 FROM tasks_task WHERE id = %s FOR UPDATE", [locked.pk])
        watching = Watch(lambda: None)
        report = watching.one_pass(Options(), as_json=True)
        other.rollback()
    assert report is not None
    assert [change.task_id for change in report.changes if change.result is Result.FAILED] == [locked.pk]
    assert held(trigger, free).active
