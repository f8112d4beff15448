"""Fault injection: after any faults, one `sync_schedules` reconciles Trigger.dev with the tasks.

Real processes: two services under gunicorn share a database, clients write concurrently, the stand-in fails at random,
and services are killed, or suspended until their leases have expired. The environment variable FAULTS_SEED sets the
random seed, FAULTS_ROUNDS the number of writes.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections

from accounts.models import ArtistLink
from demo.standin.faults import Fault
from demo.standin.server import serve_in_thread
from demo.standin.standin import Standin
from tasks.cron import zones
from tasks.models import SyncStatus, Task
from tasks.schedules.settling import LEASE
from tests.cast import Cast, make_key, make_task
from tests.conftest import TRIGGER_KEY
from tests.services import ROOT, Service, database_url

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
SEED = int(os.environ.get("FAULTS_SEED", "5"))
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "100"))
# Every so many rounds, a service is suspended until its leases have expired.
ROUNDS_PER_SUSPENSION = 100
CLIENTS = 8
SUSPENDED_SECONDS = LEASE.total_seconds() + 3
REQUEST_TIMEOUT = 8.0
RECENT_TASKS = 12
FAULTS = (
    Fault("status", status=500, probability=0.04),
    Fault("status", status=422, message="Task with identifier x not found in project.", probability=0.02),
    Fault("status", status=422, message="Invalid cron expression: injected fault", method="POST", probability=0.02),
    Fault("rate_limit", seconds=2, probability=0.03),
    Fault("garbage", probability=0.02),
    Fault("delay", seconds=0.4, probability=0.05),
    Fault("hang", seconds=5, probability=0.04),
    Fault("reset", probability=0.06),
    Fault("late", seconds=9, method="POST", probability=0.15),
    Fault("late", seconds=5, probability=0.05),
)


RecordProperty = Callable[[str, object], None]


class Scenario:
    """The stand-in, the environment of the processes, the ids of the created tasks, and the response counts."""

    def __init__(self, trigger: Standin, cast: Cast, url: str, folder: Path) -> None:
        self.trigger, self.cast, self.folder = trigger, cast, folder
        self.key = make_key(cast.alice)
        self.environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "TRIGGER_API_URL": url,
            "TRIGGER_SECRET_KEY": TRIGGER_KEY,
            "WEB_CONCURRENCY": "2",
            "THREADS": "8",
            "LOG_LEVEL": "ERROR",
        }
        self.task_ids: list[str] = []
        self.response_counts: Counter[str] = Counter()

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def sync(self, *arguments: str) -> tuple[int, Any]:
        """Runs `sync_schedules` and returns (exit status, its JSON report)."""
        with self.start_command("sync_schedules", "--json", *arguments) as process:
            output, errors = process.communicate(timeout=400)
        assert output, errors
        return process.returncode, json.loads(output)

    def drift(self) -> list[str]:
        """Every difference between the schedules at Trigger.dev and the tasks."""
        drift = [difference for task in Task.objects.all() for difference in self.drift_of(task)]
        ids = {str(pk) for pk in Task.objects.values_list("pk", flat=True)}
        orphans = [schedule.id for schedule in self.trigger.state.schedules() if schedule.external_id not in ids]
        return [*drift, *(f"{schedule_id} has no task" for schedule_id in orphans)]

    def drift_of(self, task: Task) -> Iterator[str]:
        schedules = [
            schedule
            for schedule in self.trigger.state.schedules()
            if str(task.pk) in (schedule.external_id, schedule.key)
        ]
        expected = (str(task.pk), str(task.pk), task.schedule, zones.trigger_name(task.timezone), task.is_enabled)
        if task.sync_status is not SyncStatus.IN_SYNC:
            yield f"{task.pk} is {task.sync_status}: {task.sync_error}"
        if task.deleted_at is not None:
            yield from (f"{schedule.id} of the deleted task {task.pk} still exists" for schedule in schedules)
            return
        if len(schedules) > 1 or (not schedules and task.is_enabled):
            yield f"{task.pk} has {len(schedules)} schedules"
        for schedule in schedules:
            found = (schedule.key, schedule.external_id, schedule.cron, schedule.timezone, schedule.active)
            if found != expected:
                yield f"{schedule} is not {expected}"
            if schedule.id != task.trigger_schedule_id:
                yield f"{task.pk} does not store the id {schedule.id}"


class Client(threading.Thread):
    """Writes its own tasks and those of the other clients. Retries a create that got no response."""

    def __init__(self, scenario: Scenario, services: list[Service], number: int, finished: threading.Event) -> None:
        super().__init__(daemon=True)
        self.scenario, self.services, self.finished = scenario, services, finished
        self.rng = random.Random(f"{SEED} {number}")
        self.rounds = 0

    def run(self) -> None:
        while not self.finished.is_set():
            if not all(service.is_down or service.is_suspended for service in self.services):
                self.write()
                self.rounds += 1
            self.finished.wait(0.1)

    def write(self) -> None:
        draw = self.rng.random()
        # Only the most recent tasks, so that writes conflict: a late write must detect a newer generation.
        task_id = self.rng.choice(self.scenario.task_ids[-RECENT_TASKS:]) if self.scenario.task_ids else None
        if task_id is None or draw < 0.2:
            self.create()
        elif draw < 0.6:
            self.send("PATCH", {"id": task_id, "schedule": self.random_cron(), "timezone": self.random_time_zone()})
        elif draw < 0.88:
            self.send("PATCH", {"id": task_id, "enabled": draw > 0.74})
        else:
            self.send("DELETE", {"id": task_id})

    def create(self) -> None:
        body = {"title": "t", "prompt": "p", "schedule": self.random_cron(), "timezone": self.random_time_zone()}
        body["artist_account_id"] = str(self.scenario.cast.artist.pk)
        key = str(UUID(int=self.rng.getrandbits(128)))
        for _ in range(3):
            status, response_body = self.send("POST", body, key)
            if status == 200:
                self.scenario.task_ids.append(response_body["tasks"][0]["id"])
            if status != 0 or self.finished.wait(0.3):
                return

    def send(self, method: str, body: Any, key: str = "") -> tuple[int, Any]:
        """Sends a request and returns (status, body). The status is 0 if there was no response."""
        running = [service for service in self.services if not service.is_suspended and not service.is_down]
        service = self.rng.choice(running if running and self.rng.random() < 0.95 else self.services)
        headers = {"x-api-key": self.scenario.key, "content-type": "application/json", "idempotency-key": key}
        status, response_body = 0, None
        http = HTTPConnection("127.0.0.1", service.port, timeout=REQUEST_TIMEOUT)
        with suppress(OSError, HTTPException, ValueError):
            http.request(method, "/api/tasks", json.dumps(body), headers)
            response = http.getresponse()
            response_body = json.loads(response.read())
            status = response.status
        http.close()
        self.scenario.response_counts[f"{method} {status or 'no response'}"] += 1
        return status, response_body

    def random_cron(self) -> str:
        return f"{self.rng.randrange(60)} {self.rng.randrange(24)} * * *"

    def random_time_zone(self) -> str:
        return self.rng.choice(["UTC", "Asia/Kolkata", "Europe/Kyiv", "America/New_York"])


class ServiceKiller:
    """Kills services, and suspends one at a time until its leases have expired."""

    def __init__(self, services: list[Service], *, suspensions: int, kill_resumed: bool) -> None:
        self.services, self.suspensions, self.kill_resumed = services, suspensions, kill_resumed
        self.rng = random.Random(f"{SEED} reaper")
        self.counts: Counter[str] = Counter()
        self.suspended: tuple[Service, float] | None = None

    @property
    def is_finished(self) -> bool:
        return not self.suspensions and self.suspended is None

    def act(self) -> None:
        if self.suspended and time.monotonic() > self.suspended[1]:
            self.resume(self.suspended[0])
            self.suspended = None
        elif self.suspensions and not self.suspended and self.rng.random() < 0.5:
            service = self.rng.choice(self.services)
            service.suspend()
            self.suspended = (service, time.monotonic() + SUSPENDED_SECONDS)
            self.suspensions -= 1
            self.counts["suspended"] += 1
        elif self.rng.random() < 0.3:
            self.kill(self.rng.choice(self.services))

    def resume(self, service: Service) -> None:
        """A service that is killed right after it resumed may have sent a stale write. Only `--full` detects that."""
        service.resume()
        if self.kill_resumed and self.rng.random() < 0.5:
            self.kill(service)

    def kill(self, service: Service) -> None:
        was_just_resumed = time.monotonic() < service.resumed_at + 10 and not self.kill_resumed
        if service.is_suspended or was_just_resumed:
            return
        service.kill()
        service.restart()
        self.counts["killed"] += 1


@pytest.fixture
def scenario(transactional_db: None, cast: Cast, trigger: Standin, tmp_path: Path) -> Iterator[Scenario]:
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    trigger.rate_limit = 0
    server = serve_in_thread(trigger)
    yield Scenario(trigger, cast, server.url, tmp_path)
    server.shutdown()
    server.server_close()


def run_with_faults(scenario: Scenario, *, kill_resumed: bool) -> str:
    """Runs clients, faults and kills for ROUNDS rounds, then kills all services and clears the faults.

    Returns a summary.
    """
    with ExitStack() as stack:
        services = [Service(scenario.environment, scenario.folder / f"service-{number}.log") for number in range(2)]
        for service in services:
            stack.callback(service.kill)
        for fault in FAULTS:
            scenario.trigger.faults.add(fault)
        finished = threading.Event()
        clients = [Client(scenario, services, number, finished) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        suspensions = max(1, ROUNDS // ROUNDS_PER_SUSPENSION)
        killer = ServiceKiller(services, suspensions=suspensions, kill_resumed=kill_resumed)
        while not killer.is_finished or sum(client.rounds for client in clients) < ROUNDS:
            killer.act()
            finished.wait(killer.rng.uniform(0.3, 3))
        finished.set()
        for client in clients:
            client.join(60)
    scenario.trigger.faults.clear()
    rounds, responses = sum(client.rounds for client in clients), dict(scenario.response_counts)
    return f"seed {SEED}, {connection.vendor}, {rounds} rounds, services {dict(killer.counts)}, {responses}"


def check_reconciled(scenario: Scenario, summary: str, record_property: RecordProperty, *options: str) -> None:
    """The first pass of `sync_schedules` removes all drift, and the second pass changes nothing."""
    drift_before, started_at = len(scenario.drift()), time.monotonic()
    status, report = scenario.sync(*options)
    seconds = time.monotonic() - started_at
    summary += f"; {drift_before} differences before, sync_schedules {' '.join(options)} took {seconds:.0f} s"
    record_property("summary", summary)
    assert (status, scenario.drift()) == (0, []), f"{summary}: {report}"
    scenario.trigger.asked.clear()
    status, report = scenario.sync(*options)
    written = [name for name in scenario.trigger.asked if name.split()[0] in ("POST", "PUT", "DELETE")]
    assert (status, report["changes"], written) == (0, [], []), summary


def test_one_full_pass_reconciles_all_drift_after_any_fault(
    scenario: Scenario, record_property: RecordProperty
) -> None:
    check_reconciled(scenario, run_with_faults(scenario, kill_resumed=True), record_property, "--full", "--prune")


def test_one_plain_pass_reconciles_the_unfinished_writes_of_the_service(
    scenario: Scenario, record_property: RecordProperty
) -> None:
    check_reconciled(scenario, run_with_faults(scenario, kill_resumed=False), record_property)


def test_a_new_pass_completes_right_after_a_pass_was_killed(scenario: Scenario) -> None:
    for _ in range(120):
        make_task(scenario.cast.alice, scenario.cast.artist, synced_generation=0)
    with scenario.start_command("sync_schedules", "--full") as process:
        deadline = time.monotonic() + 60
        while scenario.trigger.state.count_schedules() < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    connections.close_all()
    assert 40 <= scenario.trigger.state.count_schedules() < 120
    status, _ = scenario.sync("--full", "--prune")
    assert (status, scenario.drift()) == (0, [])
