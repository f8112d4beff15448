"""The daily work: done once a day by any worker, in its turn, and again soon where it failed."""

from datetime import timedelta
from io import StringIO

import pytest
import time_machine
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.utils import timezone

from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinSchedule
from tasks import bulk, upkeep
from tasks.management.commands import sync_schedules
from tasks.models import BulkJob, Run, Task, TaskCreation, Upkeep
from tasks.schedules.sync_lock import sync_lock
from tests.cast import Cast, make_task
from tests.tasks.test_bulk import make_tasks


def tomorrow() -> time_machine.travel:
    return time_machine.travel(timezone.now() + timedelta(days=1, minutes=1))


def orphan(trigger: Standin, cast: Cast) -> StandinSchedule:
    """A schedule of ours that no task has."""
    schedule = StandinSchedule("customer-prompt-task", "0 9 * * *", trigger.state.now - 9 * 24 * 3600)
    schedule.key = schedule.external_id = str(cast.alice.pk)
    return trigger.state.put_schedule(schedule)


def test_a_day_after_the_installation_the_schedules_are_compared_and_pruned(cast: Cast, trigger: Standin) -> None:
    tasks = make_tasks(cast.alice, cast.artist, 11)
    trigger.state.remove_schedule(str(tasks[0].trigger_schedule_id))
    orphan(trigger, cast)
    assert upkeep.step() == 0
    assert upkeep.state() == {"last_full_pass": "never"}
    with tomorrow():
        assert upkeep.step() == 2
        assert upkeep.step() == 0
        assert upkeep.state() == {"last_full_pass": f"{timezone.now():%Y-%m-%d %H:%M} UTC"}
    assert {schedule.external_id for schedule in trigger.state.schedules()} == {str(task.pk) for task in tasks}


def test_while_a_small_pass_is_running_the_full_one_waits_for_its_turn(cast: Cast, trigger: Standin) -> None:
    upkeep.step()
    with tomorrow() as clock:
        with sync_lock():
            assert upkeep.step() == 1
        assert trigger.asked["all"] == 0
        clock.shift(61)
        assert upkeep.step() == 1
    assert Upkeep.objects.get(name=upkeep.FULL_SYNC).finished_at is not None


def test_a_full_pass_that_failed_is_done_again_after_an_hour(cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist)
    upkeep.step()
    trigger.faults.add(Fault("status", status=401))
    with tomorrow() as clock:
        with pytest.raises(upkeep.Failed, match="401"):
            upkeep.step()
        row = Upkeep.objects.get(name=upkeep.FULL_SYNC)
        assert row.outcome.startswith("failed: 1 tasks")
        trigger.faults.clear()
        assert upkeep.step() == 1
        clock.shift(3601)
        assert upkeep.step() == 1
    assert Task.objects.get().trigger_schedule_id is not None


def test_what_is_old_is_deleted(cast: Cast, trigger: Standin) -> None:
    upkeep.step()
    task, long_ago = make_task(cast.alice, cast.artist), timezone.now() - timedelta(days=401)
    Session.objects.create(session_key="old", session_data="", expire_date=long_ago)
    TaskCreation.objects.create(caller=cast.alice, key="old", body_digest="x", task=task, created_at=long_ago)
    times = {"created_at": long_ago, "updated_at": long_ago, "stored_at": long_ago}
    Run.objects.create(id="run_old", task=task, status="COMPLETED", is_final=True, data="{}", **times)
    values = {"about": "these", "requested_by": "sofie", "reason": ""}
    for at in (long_ago, timezone.now()):
        job = bulk.create_job(BulkJob.Kind.PAUSE, [task.pk], **values, at=at)
        BulkJob.objects.filter(pk=job.pk).update(finished_at=at)
    with tomorrow():
        upkeep.step()
    left = [model.objects.count() for model in (Session, TaskCreation, Run, BulkJob)]
    assert left == [0, 0, 0, 1]


def test_the_command_waits_for_its_turn_too_and_tells_of_the_last_full_pass(cast: Cast, trigger: Standin) -> None:
    waited = list[float]()

    class Patient(sync_schedules.Command):
        sleep = staticmethod(waited.append)

    with sync_lock(), pytest.raises(CommandError, match="Another sync_schedules is running"):
        call_command(Patient(), "--full")
    assert sum(waited) == 600
    output = StringIO()
    call_command("sync_schedules", stdout=output)
    call_command("sync_schedules", "--full", "--prune", stdout=output)
    call_command("sync_schedules", stdout=output)
    lines = output.getvalue().splitlines()
    assert lines[0].endswith("The last full pass: never.")
    assert f"The last full pass: {timezone.now():%Y-%m-%d}" in lines[2]
