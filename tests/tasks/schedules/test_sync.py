"""sync_schedules settles pending tasks, repairs drift and prunes orphans. It leaves all other schedules unchanged.

Drift is a schedule that differs from its task. An orphan is a schedule of ours whose task no longer exists.
"""

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

NEVER = " The last full pass: never."
FULL = Options(full=True)
PRUNE = Options(full=True, prune=True)
TASK = "customer-prompt-task"


class Clock:
    """A clock that moves only when the pass waits."""

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


def steps_of(report: Report) -> list[tuple[Result, Step]]:
    return [(change.result, change.step) for change in report.changes]


def done_steps(*expected: Step) -> list[tuple[Result, Step]]:
    return [(Result.DONE, step) for step in expected]


@pytest.fixture
def task(cast: Cast, trigger: Standin, run: Sync) -> Task:
    """A task that is in sync with its schedule at Trigger.dev."""
    pending = make_task(cast.alice, cast.artist, synced_generation=0)
    run(Options())
    return Task.objects.get(pk=pending.pk)


def put_schedule(trigger: Standin, **fields: Any) -> StandinSchedule:
    values = {"task": TASK, "cron": "0 9 * * *", "created": trigger.state.now, "active": True, **fields}
    return trigger.state.put_schedule(StandinSchedule(**values))


def held_schedule(trigger: Standin, task: Task) -> StandinSchedule:
    found = trigger.state.schedule(str(task.pk))
    assert found is not None
    return found


def count_writes(trigger: Standin) -> int:
    return sum(number for name, number in trigger.asked.items() if name.split()[0] in ("POST", "PUT", "DELETE"))


def test_next_runs_that_are_not_ours_are_noted_by_time_zone(task: Task, trigger: Standin, run: Sync) -> None:
    assert run().notes == []
    schedule = held_schedule(trigger, task)
    schedule.next_fire = (schedule.next_fire or 0) + 3600
    trigger.state.put_schedule(schedule)
    before = Task.objects.values().get()
    assert len(run(replace(FULL, is_dry=True)).notes) == 1
    assert Task.objects.values().get() == before, "a dry run changes nothing"
    (note,) = run().notes
    assert Task.objects.get().calendar[-1].shift == 3600
    assert note.startswith("Trigger.dev computes another next run than we do for 1 schedule(s) in the time zone UTC")


# --- Pending tasks ---------------------------------------------------------------------------------------------------


def test_a_pending_task_without_a_schedule_gets_one(cast: Cast, trigger: Standin, run: Sync) -> None:
    task = make_task(cast.alice, cast.artist, synced_generation=0, timezone="Asia/Kolkata")
    report = run(Options())
    assert (report.status, steps_of(report)) == (Status.IN_SYNC, done_steps(Step.CREATE))
    assert (held_schedule(trigger, task).timezone, held_schedule(trigger, task).external_id) == (
        "Asia/Calcutta",
        str(task.pk),
    )
    assert Task.objects.get().sync_status is SyncStatus.IN_SYNC


def test_a_pass_with_everything_in_sync_makes_no_calls(task: Task, trigger: Standin, run: Sync) -> None:
    trigger.asked.clear()
    report = run(Options())
    assert (report.status, report.changes, trigger.asked["all"]) == (Status.IN_SYNC, [], 0)


def test_a_pass_waits_until_a_timed_out_request_can_no_longer_take_effect(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock
) -> None:
    """The first request times out, and takes effect while the command waits."""
    make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("late", method="POST", times=1))
    report = run(Options())
    assert report.status is Status.IN_SYNC
    assert sum(clock.waits) > 60
    trigger.do_late()
    assert trigger.state.count_schedules() == 1


def test_a_pass_waits_for_the_lease_of_a_killed_worker_to_expire(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock
) -> None:
    task = make_task(cast.alice, cast.artist, synced_generation=0)
    assert claim_task(task.pk, at=clock.now)
    assert run(Options()).status is Status.IN_SYNC
    assert held_schedule(trigger, task).active


def test_a_pass_does_not_settle_early_and_renew_an_unsettled_mark(
    task: Task, trigger: Standin, run: Sync, clock: Clock
) -> None:
    Task.objects.update(unsettled_until=clock.now + timedelta(seconds=40))
    assert run(Options()).status is Status.IN_SYNC
    assert 40 <= sum(clock.waits) < 45


def test_the_schedule_of_a_deleted_task_is_deleted(task: Task, trigger: Standin, run: Sync, clock: Clock) -> None:
    Task.objects.update(deleted_at=clock.now, title="", prompt="", generation=2)
    report = run(Options())
    assert steps_of(report) == done_steps(Step.DELETE)
    assert trigger.state.count_schedules() == 0


def test_a_pass_waits_for_the_rate_limit_reset_and_fails_no_task(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock
) -> None:
    make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("rate_limit", seconds=7, times=2))
    assert run(FULL).status is Status.IN_SYNC
    assert sum(clock.waits) > 12


def test_a_pass_leaves_part_of_the_rate_limit_to_the_service(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock
) -> None:
    trigger.rate_limit, trigger.state.clock = 30, lambda: clock.now
    for _ in range(20):
        make_task(cast.alice, cast.artist, synced_generation=0)
    run(Options())
    _, headers = trigger.take_token("tr_prod_tests")
    assert int(headers["x-ratelimit-remaining"]) >= 10
    assert trigger.state.count_schedules() == 20


def test_a_refused_task_is_reported_with_the_reason(cast: Cast, trigger: Standin, run: Sync) -> None:
    refused = make_task(cast.alice, cast.artist, synced_generation=0)
    other = make_task(cast.alice, cast.artist, synced_generation=0)
    message = "You have created 5/5 schedules"

    def refuse_one_task(request: Request) -> None:
        trigger.faults.clear()
        if str(refused.pk).encode() in request.body:
            trigger.faults.add(Fault("status", status=422, message=message))

    trigger.before = refuse_one_task
    report = run(Options())
    assert report.status is Status.FAILED
    (failure,) = [change for change in report.changes if change.result is Result.FAILED]
    assert (failure.task_id, message in failure.reason) == (refused.pk, True)
    assert held_schedule(trigger, other).active


def test_a_pass_stops_after_ten_unanswered_calls_and_reports_the_outage(
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
def test_a_failure_of_some_tasks_does_not_stop_the_others_from_settling(
    cast: Cast, trigger: Standin, run: Sync, kind: Any
) -> None:
    """Trigger.dev fails for eleven tasks in a row, and succeeds for the last one."""
    broken = [make_task(cast.alice, cast.artist, synced_generation=0) for _ in range(11)]
    working = make_task(cast.alice, cast.artist, synced_generation=0)

    def fail_for_broken_tasks(request: Request) -> None:
        trigger.faults.clear()
        if any(str(task.pk) in request.target or str(task.pk).encode() in request.body for task in broken):
            trigger.faults.add(Fault(kind))

    trigger.before = fail_for_broken_tasks
    report = run(Options())
    failed = {change.task_id for change in report.changes if change.result is Result.FAILED}
    assert (report.status, failed) == (Status.FAILED, {task.pk for task in broken})
    assert held_schedule(trigger, working).active


def test_a_429_with_a_past_reset_fails_no_task(cast: Cast, trigger: Standin, run: Sync) -> None:
    make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("rate_limit", seconds=0, times=4))
    assert run(FULL).status is Status.IN_SYNC


@pytest.mark.parametrize("is_dry", [False, True])
def test_a_rate_limit_that_never_resets_ends_the_pass(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock, is_dry: bool
) -> None:
    for _ in range(30):
        make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("rate_limit", seconds=10))
    report = run(Options(is_dry=is_dry))
    assert (report.status, len(report.problems), report.changes) == (Status.FAILED, 1, [])
    assert sum(clock.waits) < 150


@pytest.mark.parametrize("column", ["unsettled_until", "lease_until"])
def test_a_pass_does_not_wait_for_a_lease_or_mark_in_the_far_future(
    cast: Cast, trigger: Standin, run: Sync, clock: Clock, column: str
) -> None:
    task = make_task(cast.alice, cast.artist, synced_generation=0, **{column: clock.now + timedelta(days=30)})
    assert run(Options()).status is Status.IN_SYNC
    assert held_schedule(trigger, task).active
    assert sum(clock.waits) < 200


# --- Drift -----------------------------------------------------------------------------------------------------------


DRIFT: dict[str, tuple[dict[str, Any], Step]] = {
    "different cron expression": ({"cron": "5 5 * * *"}, Step.REPLACE),
    "different time zone": ({"timezone": "Europe/Paris"}, Step.REPLACE),
    "no external id": ({"external_id": None}, Step.REPLACE),
    "deactivated": ({"active": False}, Step.ACTIVATE),
    "different cron expression and deactivated": ({"cron": "5 5 * * *", "active": False}, Step.RESUME),
}


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_is_repaired_and_a_second_pass_does_nothing(task: Task, trigger: Standin, run: Sync, drift: str) -> None:
    changes, step = DRIFT[drift]
    original = held_schedule(trigger, task)
    trigger.state.put_schedule(replace(original, **changes))
    assert steps_of(run(Options(full=True, is_dry=True))) == [(Result.PLANNED, step)]
    assert held_schedule(trigger, task) == replace(original, **changes), "a dry run changes nothing"
    assert steps_of(run(FULL)) == done_steps(step)
    repaired = held_schedule(trigger, task)
    assert (repaired.id, repaired.cron, repaired.timezone, repaired.external_id, repaired.active) == (
        *(original.id, task.schedule, task.timezone, str(task.pk)),
        True,
    )
    assert (run(PRUNE).changes, Task.objects.get().sync_status) == ([], SyncStatus.IN_SYNC)


def test_a_missing_schedule_is_created_again(task: Task, trigger: Standin, run: Sync) -> None:
    trigger.state.remove_schedule(held_schedule(trigger, task).id)
    put_schedule(trigger, key="other", external_id="other", task="create-content")
    assert steps_of(run(FULL)) == done_steps(Step.CREATE)
    assert Task.objects.get().trigger_schedule_id == held_schedule(trigger, task).id


def test_the_active_schedule_of_a_paused_task_is_deactivated(task: Task, trigger: Standin, run: Sync) -> None:
    Task.objects.update(enabled=False)
    assert steps_of(run(FULL)) == done_steps(Step.DEACTIVATE)
    assert not held_schedule(trigger, task).active


def test_a_pass_without_full_does_not_look_for_drift(task: Task, trigger: Standin, run: Sync) -> None:
    trigger.state.put_schedule(replace(held_schedule(trigger, task), active=False))
    assert run(Options()).changes == []


def test_a_second_schedule_of_a_task_is_deleted(task: Task, trigger: Standin, run: Sync) -> None:
    """It has no deduplication key: Trigger.dev creates such a schedule when it replaces one that no longer exists."""
    for number in range(10):
        put_schedule(trigger, key=f"other {number}", task="create-content")
    second = put_schedule(trigger, external_id=str(task.pk), cron="1 1 * * *")
    assert run(FULL).problems, "one of our two schedules is more than 10 %"
    assert steps_of(run(replace(FULL, yes=True))) == done_steps(Step.DELETE)
    assert trigger.state.schedule(second.id) is None
    assert held_schedule(trigger, task).active


def test_the_only_working_schedule_of_a_task_is_kept_and_adopted(cast: Cast, trigger: Standin, run: Sync) -> None:
    """The row names a schedule that no longer exists, and Trigger.dev refuses to create a new one."""
    make_synced_tasks(cast, trigger, 20)
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_gone")
    working = put_schedule(trigger, external_id=str(task.pk))
    refusal = "You have created 20/20 schedules"
    trigger.faults.add(Fault("status", method="POST", status=422, message=refusal))
    assert run(FULL).status is Status.IN_SYNC
    assert trigger.state.schedule(working.id) == working
    assert Task.objects.get(pk=task.pk).trigger_schedule_id == working.id


def test_a_second_schedule_is_kept_while_the_first_is_not_settled(cast: Cast, trigger: Standin, run: Sync) -> None:
    make_synced_tasks(cast, trigger, 20)
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_gone", synced_generation=0)
    working = put_schedule(trigger, external_id=str(task.pk))
    trigger.faults.add(Fault("status", method="POST", status=422, message="You have created 20/20 schedules"))
    assert run(FULL).status is Status.FAILED
    assert trigger.state.schedule(working.id) == working


def test_a_schedule_without_a_deduplication_key_is_adopted_by_its_external_id(
    cast: Cast, trigger: Standin, run: Sync
) -> None:
    """The schedule of a paused task was still active."""
    task = make_task(cast.alice, cast.artist, enabled=False)
    put_schedule(trigger, external_id=str(task.pk))
    assert run(replace(FULL, is_dry=True)).status is Status.DRIFT
    assert steps_of(run(FULL)) == done_steps(Step.DEACTIVATE)
    assert not trigger.state.schedules()[0].active
    assert run(PRUNE).changes == []


def test_a_foreign_schedule_with_the_external_id_of_our_task_is_reported(
    task: Task, trigger: Standin, run: Sync
) -> None:
    foreign = put_schedule(trigger, key="duplicate", external_id=str(task.pk))
    report = run(PRUNE)
    assert (report.status, trigger.state.schedule(foreign.id)) == (Status.IN_SYNC, foreign)
    assert foreign.id in report.notes[0]


def test_the_row_stores_the_id_of_its_schedule(task: Task, trigger: Standin, run: Sync) -> None:
    Task.objects.update(trigger_schedule_id="sched_old")
    assert run(replace(FULL, is_dry=True)).status is Status.DRIFT
    assert run(FULL).status is Status.IN_SYNC
    assert Task.objects.get().trigger_schedule_id == held_schedule(trigger, task).id


# --- Orphans, and schedules that are not ours ------------------------------------------------------------------------


def put_orphan(trigger: Standin, number: int = 1) -> StandinSchedule:
    task_id = f"00000000-0000-4000-8000-{number:012d}"
    return put_schedule(trigger, key=task_id, external_id=task_id)


def put_foreign_schedules(trigger: Standin, task: Task) -> list[StandinSchedule]:
    """Schedules of the same Trigger.dev project that resemble ours and are not ours."""
    unknown_id = "11111111-2222-4333-8444-555555555555"
    missing_task_id = "00000000-0000-4000-8000-00000000dead"
    return [
        put_schedule(trigger, key="nightly", external_id=None),
        put_schedule(trigger, key=None, external_id="nightly"),
        put_schedule(trigger, key=None, external_id=None),
        put_schedule(trigger, key=unknown_id, external_id=None),
        put_schedule(trigger, key=unknown_id[::-1], external_id=missing_task_id),
        put_schedule(trigger, key=f"staging-{missing_task_id}", external_id=missing_task_id),
        put_schedule(trigger, key=None, external_id=missing_task_id, task="create-content"),
        put_schedule(trigger, key=None, external_id=missing_task_id, kind="DECLARATIVE"),
        put_schedule(trigger, key=None, external_id=str(task.pk), kind="DECLARATIVE"),
        put_schedule(trigger, key=f"{task.pk}-copy", external_id=str(task.pk)),
        put_schedule(trigger, key=missing_task_id.upper(), external_id=missing_task_id),
    ]


@pytest.mark.parametrize("options", [Options(), FULL, PRUNE, replace(PRUNE, yes=True), replace(PRUNE, is_dry=True)])
def test_foreign_schedules_are_never_changed(task: Task, trigger: Standin, run: Sync, options: Options) -> None:
    foreign = put_foreign_schedules(trigger, task)
    writes_before = count_writes(trigger)
    assert (run(options).changes, count_writes(trigger)) == ([], writes_before)
    assert [trigger.state.schedule(schedule.id) for schedule in foreign] == foreign


@pytest.mark.parametrize("fields", [{"kind": "DECLARATIVE"}, {"external_id": "foreign"}, {"task": "create-content"}])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_task_does_not_take_over_a_foreign_schedule_whose_id_it_stores(
    cast: Cast, trigger: Standin, run: Sync, fields: dict[str, Any], is_deleted: bool
) -> None:
    foreign = put_schedule(trigger, **fields, cron="3 3 * * *")
    deletion = {"deleted_at": timezone.now(), "title": "", "prompt": ""} if is_deleted else {}
    make_task(cast.alice, cast.artist, trigger_schedule_id=foreign.id, synced_generation=0, **deletion)
    assert run(PRUNE).status is Status.IN_SYNC
    assert trigger.state.schedule(foreign.id) == foreign
    assert trigger.state.count_schedules() == (1 if is_deleted else 2)


def test_an_orphan_is_reported_and_kept_until_prune_deletes_it(task: Task, trigger: Standin, run: Sync) -> None:
    for number in range(10):
        put_schedule(trigger, key=f"other {number}")
    orphan_id = put_orphan(trigger).id
    report = run(FULL)
    assert (report.status, report.changes, report.orphans) == (Status.FAILED, [], [orphan_id])
    assert orphan_id in report.notes[0]
    dry_run = run(replace(FULL, is_dry=True))
    assert (dry_run.status, dry_run.changes) == (Status.DRIFT, []), (
        "a dry run plans what a run with the same options would do"
    )
    assert run(replace(PRUNE, is_dry=True, yes=True)).status is Status.DRIFT
    assert steps_of(run(replace(PRUNE, yes=True))) == done_steps(Step.DELETE)
    assert trigger.state.schedule(orphan_id) is None
    assert held_schedule(trigger, task).active


@pytest.mark.parametrize(
    ("ours", "orphans", "needs_yes"), [(20, 2, False), (5, 1, True), (200, 11, True), (200, 10, False)]
)
def test_pruning_many_orphans_needs_yes(
    cast: Cast, trigger: Standin, run: Sync, ours: int, orphans: int, needs_yes: bool
) -> None:
    for number in range(ours - orphans):
        task = make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
        put_schedule(trigger, id=f"sched_{number}", key=str(task.pk), external_id=str(task.pk))
    for number in range(orphans):
        put_orphan(trigger, number)
    report = run(PRUNE)
    assert trigger.state.count_schedules() == (ours if needs_yes else ours - orphans)
    assert (report.status is Status.FAILED) is needs_yes
    assert any("--yes" in problem for problem in report.problems) is needs_yes
    assert run(replace(PRUNE, yes=True)).status is Status.IN_SYNC
    assert trigger.state.count_schedules() == ours - orphans


def test_each_orphan_is_checked_again_before_it_is_pruned(cast: Cast, trigger: Standin, run: Sync) -> None:
    """After the list was read, the task of the first appears and the second changes its owner."""
    first, second, third = (put_orphan(trigger, number) for number in (1, 2, 3))

    def change_after_listing(request: Request) -> None:
        if "page=" in request.target:
            make_task(cast.alice, cast.artist, id=first.external_id, trigger_schedule_id=first.id)
            trigger.state.put_schedule(replace(second, external_id="somebody's"))

    trigger.after = change_after_listing
    report = run(replace(PRUNE, yes=True))
    assert [change.schedule_id for change in report.changes] == [third.id]
    assert {schedule.id for schedule in trigger.state.schedules()} == {first.id, second.id}


def test_the_account_option_limits_the_pass_to_one_account(cast: Cast, task: Task, trigger: Standin, run: Sync) -> None:
    pending = make_task(cast.charlie, cast.artist, synced_generation=0)
    trigger.state.put_schedule(replace(held_schedule(trigger, task), active=False))
    deleted = make_task(cast.charlie, cast.artist, deleted_at=timezone.now(), title="", prompt="")
    put_schedule(trigger, key=str(deleted.pk), external_id=str(deleted.pk))
    orphan = put_orphan(trigger)
    report = run(replace(PRUNE, account=cast.charlie, yes=True))
    assert {change.task_id for change in report.changes} == {pending.pk, deleted.pk}
    assert not held_schedule(trigger, task).active
    assert trigger.state.schedule(orphan.id) == orphan


# --- Lists that are unreliable or cannot be read ---------------------------------------------------------------------


def make_synced_tasks(cast: Cast, trigger: Standin, count: int) -> list[Task]:
    tasks = [make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}") for number in range(count)]
    for number, task in enumerate(tasks):
        put_schedule(trigger, id=f"sched_{number}", key=str(task.pk), external_id=str(task.pk), created=float(number))
    return tasks


def test_a_page_with_a_poisoned_schedule_is_read_one_schedule_at_a_time(
    cast: Cast, trigger: Standin, run: Sync
) -> None:
    tasks = make_synced_tasks(cast, trigger, 250)
    put_schedule(trigger, key="poison", created=120.5, poisoned=True)
    put_schedule(trigger, key="poison too", created=121.5, poisoned=True)
    trigger.state.put_schedule(replace(held_schedule(trigger, tasks[119]), active=False))
    trigger.asked.clear()
    report = run(PRUNE)
    assert (report.status, steps_of(report)) == (Status.IN_SYNC, done_steps(Step.ACTIVATE))
    assert "cannot show 2 of its schedules" in report.notes[0]
    assert trigger.asked["GET /api/v1/schedules"] < 50


def test_a_poisoned_schedule_of_our_own_task_is_reported_as_a_failure(cast: Cast, trigger: Standin, run: Sync) -> None:
    tasks = make_synced_tasks(cast, trigger, 12)
    trigger.state.put_schedule(replace(held_schedule(trigger, tasks[5]), poisoned=True))
    report = run(FULL)
    assert [(change.result, change.task_id) for change in report.changes] == [(Result.FAILED, tasks[5].pk)]


def test_a_trigger_outage_is_not_mistaken_for_poisoned_schedules(cast: Cast, trigger: Standin, run: Sync) -> None:
    make_synced_tasks(cast, trigger, 3)
    trigger.faults.add(Fault("status", status=500))
    report = run(PRUNE)
    assert (report.status, report.changes) == (Status.FAILED, [])
    assert trigger.asked["all"] < 60


def test_an_empty_list_without_a_deployment_ends_the_pass(cast: Cast, trigger: Standin, run: Sync) -> None:
    make_synced_tasks(cast, trigger, 3)
    trigger.state.deployed = False
    report = run(replace(PRUNE, yes=True))
    assert (report.status, report.changes) == (Status.FAILED, [])
    assert "nothing may be deployed" in report.problems[0]
    assert trigger.state.count_schedules() == 3


def test_schedules_that_were_all_deleted_are_created_again(cast: Cast, trigger: Standin, run: Sync) -> None:
    tasks = make_synced_tasks(cast, trigger, 3)
    for number in range(3):
        trigger.state.remove_schedule(f"sched_{number}")
    assert run(FULL).status is Status.IN_SYNC
    assert all(held_schedule(trigger, task).active for task in tasks)


def test_a_dry_run_costs_one_call_per_page_and_one_per_difference(cast: Cast, trigger: Standin, run: Sync) -> None:
    tasks = make_synced_tasks(cast, trigger, 250)
    trigger.state.put_schedule(replace(held_schedule(trigger, tasks[7]), cron="1 1 * * *"))
    trigger.asked.clear()
    report = run(replace(PRUNE, is_dry=True))
    assert (report.status, trigger.asked["all"]) == (Status.DRIFT, 3 + 1)


@pytest.mark.slow
def test_10_000_tasks_in_sync_cost_100_calls(cast: Cast, trigger: Standin, run: Sync) -> None:
    trigger.rate_limit = 0
    make_synced_tasks(cast, trigger, 10_000)
    report = run(replace(PRUNE, is_dry=True))
    assert (report.status, report.tasks, trigger.asked["all"]) == (Status.IN_SYNC, 10_000, 100)


# --- The command -----------------------------------------------------------------------------------------------------


def run_command(*arguments: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error)"""
    output, errors = StringIO(), StringIO()
    try:
        call_command("sync_schedules", *arguments, stdout=output, stderr=errors)
    except SystemExit as end:
        return int(end.code or 0), output.getvalue(), errors.getvalue()
    return 0, output.getvalue(), errors.getvalue()


def test_exit_statuses_of_the_command(cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist, synced_generation=0)
    assert run_command("--dry-run")[0] == 2
    assert run_command() == (0, output_line(Step.CREATE) + f"In sync: 1 task, 1 done.{NEVER}\n", "")
    assert run_command() == (0, f"In sync: 1 task.{NEVER}\n", "")
    trigger.faults.add(Fault("status", status=401, message="Invalid or Missing API Key"))
    status, output, errors = run_command("--full")
    assert (status, output) == (1, "Not in sync: 1 task.\n")
    assert "401, Invalid or Missing API Key" in errors
    assert run_command("--full", "--dry-run")[0] == 1


def test_a_second_sync_schedules_is_refused_by_the_lock(db: None) -> None:
    with sync_lock(), pytest.raises(CommandError, match="Another sync_schedules is running") as refusal:
        call_command("sync_schedules")
    assert refusal.value.returncode == 3


def output_line(step: Step) -> str:
    task = Task.objects.get()
    return line(Change(Result.DONE, step, task.pk, task.trigger_schedule_id)) + "\n"


def test_the_json_option_prints_the_report_as_json(cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist, synced_generation=0)
    status, output, _ = run_command("--json", "--dry-run", "--account", "alice@example.com")
    change = {"result": "planned", "step": "create", "task_id": str(task.pk), "schedule_id": None, "reason": ""}
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
def test_invalid_options_are_refused_with_the_reason(db: None, arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("sync_schedules", *arguments)


def test_another_trigger_environment_is_refused_before_the_first_call(
    task: Task, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_NAMESPACE = "staging-"
    Task.objects.update(generation=2)
    trigger.asked.clear()
    status, _, errors = run_command("--full", "--prune", "--yes")
    assert (status, trigger.asked["all"]) == (1, 0)
    assert "accept_trigger_environment" in errors


class ThreePasses(Command):
    """sync_schedules --watch that does not sleep. It stops at the end of the third pass."""

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


def test_watch_continues_after_a_failed_pass(cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("status", status=401, message="Invalid or Missing API Key"))
    output, errors = ThreePasses(trigger.faults.clear).run_passes()
    assert held_schedule(trigger, task).active
    assert (output.count("Not in sync: 1 task"), output.count("In sync: 1 task")) == (1, 2)
    assert errors.endswith("Stopped.\n")


def test_sigterm_during_a_call_ends_the_watch(cast: Cast, trigger: Standin) -> None:
    def stop(request: Request) -> None:
        raise Stopped

    task = make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.before = stop
    output, errors = ThreePasses(lambda: None).run_passes()
    assert (output, errors) == ("", "Stopped.\n")
    assert Task.objects.get(pk=task.pk).sync_error == ""


def test_the_json_report_says_already_running(db: None) -> None:
    output = StringIO()
    with sync_lock(), pytest.raises(CommandError):
        call_command("sync_schedules", "--json", stdout=output)
    assert json.loads(output.getvalue()) == {"status": "already_running"}


def test_the_help_text_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Command().run_from_argv(["manage.py", "sync_schedules", "--help"])
    assert "10 % of ours" in " ".join(capsys.readouterr().out.split())


def test_watch_skips_a_pass_while_another_process_has_the_lock(db: None) -> None:
    with sync_lock():
        _, errors = ThreePasses(lambda: None).run_passes()
    assert errors.count("this pass is skipped") == 3


def test_the_sync_lock_is_released(db: None) -> None:
    """Also after an exception: a pooled connection would keep the lock."""
    with suppress(ZeroDivisionError), sync_lock():
        raise ZeroDivisionError
    for _ in range(2):
        with sync_lock() as first_has_lock, sync_lock() as second_has_lock:
            assert (first_has_lock, second_has_lock) == (True, False)


@pytest.mark.django_db(transaction=True)
def test_a_locked_row_fails_its_task_and_does_not_end_the_pass(
    transactional_db: None, cast: Cast, trigger: Standin
) -> None:
    """PostgreSQL locks rows. SQLite locks the whole database, and there the pass reports a failure."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no row locks")
    locked, free = (make_task(cast.alice, cast.artist, synced_generation=0) for _ in range(2))
    other = connection.copy()
    other.set_autocommit(False)
    with closing(other), other.cursor() as cursor, connection.cursor() as ours:
        ours.execute("SET lock_timeout = '50ms'")
        cursor.execute("SELECT 1 FROM tasks_task WHERE id = %s FOR UPDATE", [locked.pk])
        watching = ThreePasses(lambda: None)
        report = watching.one_pass(Options(), as_json=True)
        other.rollback()
    assert report is not None
    assert [change.task_id for change in report.changes if change.result is Result.FAILED] == [locked.pk]
    assert held_schedule(trigger, free).active
