"""The commands of background work: run_worker and sync_runs."""

import json
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks import writes
from tasks.management.commands import run_worker
from tasks.models import Run, RunRequest, SyncFailure, SyncStatus, Task
from tasks.retention import delete_old_runs
from tasks.runs.steps import database_now
from tasks.schedules.settling import settle, settle_pending
from tests.cast import TESTER, Cast, make_task
from tests.client import later
from tests.services import ROOT, database_url


def output_of(command: str, *arguments: str) -> Any:
    printed = StringIO()
    call_command(command, *arguments, stdout=printed)
    return printed.getvalue()


def add_run(trigger: Standin, task: Task, *, days: int) -> None:
    created = (timezone.now() - timedelta(days=days)).timestamp()
    schedule = {"id": task.trigger_schedule_id}
    trigger.state.add_run(StandinRun("customer-prompt-task", created, schedule=schedule, ends_after=5))


def test_pending_tasks_are_settled_and_refused_or_waiting_ones_are_left(cast: Cast, trigger: Standin) -> None:
    pending = make_task(cast.alice, cast.artist, synced_generation=0)
    make_task(cast.alice, cast.artist, synced_generation=0, refused_generation=1)
    make_task(cast.alice, cast.artist, unsettled_until=timezone.now() + timedelta(minutes=1))
    assert settle_pending() == 1
    assert Task.objects.get(pk=pending.pk).sync_status is SyncStatus.IN_SYNC
    assert (settle_pending(), trigger.state.count_schedules()) == (0, 1)


def test_tasks_that_trigger_refuses_are_tried_less_and_less_and_hold_up_no_others(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    """More than one pass takes: their namespace has no room for another schedule."""
    for number in range(25):
        make_task(cast.alice, cast.artist, title=f"Refused {number}", synced_generation=0)
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422))
    for _ in range(2):
        settle_pending()
    clock.shift(1)
    last = make_task(cast.bob, cast.artist, synced_generation=0)
    settle_pending()
    assert Task.objects.get(pk=last.pk).settle_after is not None
    clock.shift(3600)
    trigger.asked.clear()
    for _ in range(60):
        clock.shift(60)
        settle_pending()
    assert trigger.asked["POST /api/v1/schedules"] <= 26 * 3
    trigger.faults.clear()
    writes.update_task(last, {"schedule": "0 7 * * *"}, actor=TESTER, at=timezone.now())
    assert Task.objects.get(pk=last.pk).sync_status is SyncStatus.IN_SYNC


def test_a_task_that_was_refused_for_longer_than_failures_are_kept_is_tried_once_an_hour(
    cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist, synced_generation=0)
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422))
    settle_pending()
    clock.shift(3600)
    SyncFailure.objects.all().delete()
    trigger.asked.clear()
    for _ in range(60):
        clock.shift(60)
        settle_pending()
    assert trigger.asked["POST /api/v1/schedules"] <= 2
    trigger.faults.clear()
    assert settle(task.pk, at=timezone.now()).is_settled
    assert Task.objects.get().settle_after is None


def test_the_first_failure_of_a_series_is_kept_until_it_is_old(cast: Cast, trigger: Standin) -> None:
    task, ago = make_task(cast.alice, cast.artist, synced_generation=0), timedelta(days=9)
    trigger.faults.add(Fault("status", status=503))
    for _ in range(3):
        settle(task.pk, at=timezone.now())
    trigger.faults.clear()
    settle(task.pk, at=timezone.now())
    failure = task.sync_failures.get()
    assert "503" in failure.reason
    SyncFailure.objects.create(task=task, at=failure.at - ago, reason="Long ago")
    delete_old_runs(before=timezone.now() - timedelta(days=5))
    assert list(task.sync_failures.all()) == [failure]


def test_requests_to_run_a_task_are_deleted_with_old_runs(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    now = timezone.now()
    for days in (1, 9):
        at, digest = now - timedelta(days=days), str(days) * 64
        RunRequest.objects.create(task=task, requested_by=cast.alice, requested_at=at, digest=digest)
    delete_old_runs(before=now - timedelta(days=5))
    assert RunRequest.objects.get().digest == "1" * 64


def test_sync_runs_polls_each_due_task_once(cast: Cast, trigger: Standin) -> None:
    for number in range(3):
        task = make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
        add_run(trigger, task, days=1)
    assert json.loads(output_of("sync_runs", "--json")) == {"polled": 3, "failed": 0, "deleted": 0}
    assert Run.objects.count() == 3
    assert output_of("sync_runs") == "0 polled, 0 failed, 0 deleted\n"


def test_sync_runs_ends_with_1_when_trigger_does_not_answer(cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    trigger.faults.add(Fault("hang"))
    with pytest.raises(SystemExit) as ended:
        output_of("sync_runs")
    assert ended.value.code == 1


def test_backfill_reads_all_runs_of_every_task(cast: Cast, trigger: Standin) -> None:
    task = make_task(
        cast.alice,
        cast.artist,
        trigger_schedule_id="sched_a",
        polled_at=timezone.now(),
        next_poll_at=timezone.now() + timedelta(hours=5),
    )
    for days in range(1, 131):
        add_run(trigger, task, days=days)
    output_of("sync_runs", "--backfill")
    assert Run.objects.count() == 130


def test_delete_old_removes_runs_past_the_retention(cast: Cast, trigger: Standin, settings: Any) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    for days in (1, 20):
        add_run(trigger, task, days=days)
    output_of("sync_runs")
    settings.RUN_RETENTION_DAYS = 10
    assert json.loads(output_of("sync_runs", "--delete-old", "--json"))["deleted"] == 1
    (kept,) = Run.objects.all()
    assert Task.objects.get().recent_runs == kept.data


@pytest.mark.parametrize("is_used", [True, False])
def test_due_times_use_the_clock_of_postgresql(db: None, settings: Any, is_used: bool) -> None:
    settings.USE_DATABASE_CLOCK = is_used
    with later(hours=1):
        is_shared = timezone.now() - database_now() > timedelta(minutes=30)
    assert is_shared == (is_used and connection.vendor == "postgresql")


def test_a_job_that_fails_does_not_stop_the_other() -> None:
    stopping, done = threading.Event(), list[str]()

    def fail() -> int:
        done.append("failed")
        raise RuntimeError("broken")

    def work() -> int:
        done.append("worked")
        if done.count("worked") == 3:
            stopping.set()
        return 0

    jobs = [run_worker.Job("broken", 0.001, fail), run_worker.Job("good", 0.001, work)]
    threads = [threading.Thread(target=run_worker.repeat, args=(job, stopping)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert {"failed", "worked"} == set(done)


@pytest.mark.slow
def test_the_worker_ends_within_ten_seconds_of_a_sigterm(transactional_db: None) -> None:
    command = [sys.executable, "manage.py", "run_worker"]
    environment = {"DATABASE_URL": database_url(), "PATH": "/usr/bin:/bin", "LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"Working")
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    process.stdout.close()
    assert time.monotonic() - begun < 10
