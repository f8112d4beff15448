"""The fault test: whatever happens, one `sync_schedules` later Trigger.dev is equal to the tasks.

Real processes: two services under gunicorn on one database, clients that write at once, a stand-in that fails at
random, services that are killed, and such that are stopped until their leases have passed. FAULTS_SEED and
FAULTS_ROUNDS in the environment choose another play and a longer one.
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
# One service is stopped past its lease for each so many rounds.
ROUNDS_PER_STOP = 100
CLIENTS = 8
STOPPED_FOR = LEASE.total_seconds() + 3
PATIENCE = 8.0
HOT = 12
FAULTS = (
    Fault("status", status=500, probability=0.04),
    Fault("status", status=422, message="Task with identifier x not found in project.", probability=0.02),
    Fault("status", status=422, message="Invalid cron expression: so it was told", method="POST", probability=0.02),
    Fault("rate_limit", seconds=2, probability=0.03),
    Fault("garbage", probability=0.02),
    Fault("delay", seconds=0.4, probability=0.05),
    Fault("hang", seconds=5, probability=0.04),
    Fault("reset", probability=0.06),
    Fault("late", seconds=9, method="POST", probability=0.15),
    Fault("late", seconds=5, probability=0.05),
)


Tell = Callable[[str, object], None]


class World:
    """Everything in the play: the stand-in, the processes' environment, and what clients were answered."""

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
        self.known: list[str] = []
        self.answers: Counter[str] = Counter()

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def sync(self, *arguments: str) -> tuple[int, Any]:
        """(exit status, what it printed as JSON)"""
        with self.command("sync_schedules", "--json", *arguments) as process:
            output, errors = process.communicate(timeout=400)
        assert output, errors
        return process.returncode, json.loads(output)

    def wrong(self) -> list[str]:
        """Every way in which Trigger.dev is not what the tasks say."""
        found = [problem for task in Task.objects.all() for problem in self.wrong_with(task)]
        ids = {str(pk) for pk in Task.objects.values_list("pk", flat=True)}
        nobodys = [one.id for one in self.trigger.state.schedules() if one.external_id not in ids]
        return [*found, *(f"{schedule_id} has no task" for schedule_id in nobodys)]

    def wrong_with(self, task: Task) -> Iterator[str]:
        held = [one for one in self.trigger.state.schedules() if str(task.pk) in (one.external_id, one.key)]
        wanted = (str(task.pk), str(task.pk), task.schedule, zones.trigger_name(task.timezone), task.is_enabled)
        if task.sync_status is not SyncStatus.IN_SYNC:
            yield f"{task.pk} is {task.sync_status}: {task.sync_error}"
        if task.deleted_at is not None:
            yield from (f"{one.id} of the deleted {task.pk} is there" for one in held)
            return
        if len(held) > 1 or (not held and task.is_enabled):
            yield f"{task.pk} has {len(held)} schedules"
        for one in held:
            if (one.key, one.external_id, one.cron, one.timezone, one.active) != wanted:
                yield f"{one} is not {wanted}"
            if one.id != task.trigger_schedule_id:
                yield f"{task.pk} does not know {one.id}"


class Client(threading.Thread):
    """Writes tasks, those of the other clients too, and sends a request again that got no answer."""

    def __init__(self, world: World, services: list[Service], number: int, finished: threading.Event) -> None:
        super().__init__(daemon=True)
        self.world, self.services, self.finished = world, services, finished
        self.chance = random.Random(f"{SEED} {number}")
        self.rounds = 0

    def run(self) -> None:
        while not self.finished.is_set():
            if not all(service.is_down or service.is_stopped for service in self.services):
                self.write()
                self.rounds += 1
            self.finished.wait(0.1)

    def write(self) -> None:
        chance = self.chance.random()
        # Few at a time, so that writers meet: what comes late must find that somebody else has written since.
        task_id = self.chance.choice(self.world.known[-HOT:]) if self.world.known else None
        if task_id is None or chance < 0.2:
            self.create()
        elif chance < 0.6:
            self.send("PATCH", {"id": task_id, "schedule": self.cron(), "timezone": self.zone()})
        elif chance < 0.88:
            self.send("PATCH", {"id": task_id, "enabled": chance > 0.74})
        else:
            self.send("DELETE", {"id": task_id})

    def create(self) -> None:
        body = {"title": "t", "prompt": "p", "schedule": self.cron(), "timezone": self.zone()}
        body["artist_account_id"] = str(self.world.cast.artist.pk)
        key = str(UUID(int=self.chance.getrandbits(128)))
        for _ in range(3):
            status, answer = self.send("POST", body, key)
            if status == 200:
                self.world.known.append(answer["tasks"][0]["id"])
            if status != 0 or self.finished.wait(0.3):
                return

    def send(self, method: str, body: Any, key: str = "") -> tuple[int, Any]:
        """(status, answer); status 0 for no answer."""
        awake = [service for service in self.services if not service.is_stopped and not service.is_down]
        service = self.chance.choice(awake if awake and self.chance.random() < 0.95 else self.services)
        headers = {"x-api-key": self.world.key, "content-type": "application/json", "idempotency-key": key}
        status, answer = 0, None
        http = HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
        with suppress(OSError, HTTPException, ValueError):
            http.request(method, "/api/tasks", json.dumps(body), headers)
            response = http.getresponse()
            answer = json.loads(response.read())
            status = response.status
        http.close()
        self.world.answers[f"{method} {status or 'no answer'}"] += 1
        return status, answer

    def cron(self) -> str:
        return f"{self.chance.randrange(60)} {self.chance.randrange(24)} * * *"

    def zone(self) -> str:
        return self.chance.choice(["UTC", "Asia/Kolkata", "Europe/Kyiv", "America/New_York"])


class Reaper:
    """Kills services, and stops one at a time until its leases have passed."""

    def __init__(self, services: list[Service], *, stops: int, kills_the_stopped: bool) -> None:
        self.services, self.stops, self.kills_the_stopped = services, stops, kills_the_stopped
        self.chance = random.Random(f"{SEED} reaper")
        self.done: Counter[str] = Counter()
        self.stopped: tuple[Service, float] | None = None

    @property
    def is_done(self) -> bool:
        return not self.stops and self.stopped is None

    def act(self) -> None:
        if self.stopped and time.monotonic() > self.stopped[1]:
            self.resume(self.stopped[0])
            self.stopped = None
        elif self.stops and not self.stopped and self.chance.random() < 0.5:
            service = self.chance.choice(self.services)
            service.stop()
            self.stopped = (service, time.monotonic() + STOPPED_FOR)
            self.stops -= 1
            self.done["stopped"] += 1
        elif self.chance.random() < 0.3:
            self.kill(self.chance.choice(self.services))

    def resume(self, service: Service) -> None:
        """Killed right after, it may have sent an old write and left no word of it: only `--full` sees that."""
        service.resume()
        if self.kills_the_stopped and self.chance.random() < 0.5:
            self.kill(service)

    def kill(self, service: Service) -> None:
        is_fresh = time.monotonic() < service.resumed_at + 10 and not self.kills_the_stopped
        if service.is_stopped or is_fresh:
            return
        service.kill()
        service.start_again()
        self.done["killed"] += 1


@pytest.fixture
def world(transactional_db: None, cast: Cast, trigger: Standin, tmp_path: Path) -> Iterator[World]:
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    trigger.rate_limit = 0
    server = serve_in_thread(trigger)
    yield World(trigger, cast, server.url, tmp_path)
    server.shutdown()
    server.server_close()


def play(world: World, *, kills_the_stopped: bool) -> str:
    """Until there were enough rounds and stops; then all is killed once more, and Trigger.dev is well again."""
    with ExitStack() as stack:
        services = [Service(world.environment, world.folder / f"service-{number}.log") for number in range(2)]
        for service in services:
            stack.callback(service.kill)
        for fault in FAULTS:
            world.trigger.faults.add(fault)
        finished = threading.Event()
        clients = [Client(world, services, number, finished) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        stops = max(1, ROUNDS // ROUNDS_PER_STOP)
        reaper = Reaper(services, stops=stops, kills_the_stopped=kills_the_stopped)
        while not reaper.is_done or sum(client.rounds for client in clients) < ROUNDS:
            reaper.act()
            finished.wait(reaper.chance.uniform(0.3, 3))
        finished.set()
        for client in clients:
            client.join(60)
    world.trigger.faults.clear()
    rounds = sum(client.rounds for client in clients)
    return f"seed {SEED}, {connection.vendor}, {rounds} rounds, services {dict(reaper.done)}, {dict(world.answers)}"


def check(world: World, played: str, tell: Tell, *options: str) -> None:
    """One pass makes all of it right, and a second one has nothing to do."""
    before, begun = len(world.wrong()), time.monotonic()
    status, report = world.sync(*options)
    seconds = time.monotonic() - begun
    told = f"{played}; {before} wrong before, sync_schedules {' '.join(options)} took {seconds:.0f} s"
    tell("told", told)
    assert (status, world.wrong()) == (0, []), f"{told}: {report}"
    world.trigger.asked.clear()
    status, report = world.sync(*options)
    written = [name for name in world.trigger.asked if name.split()[0] in ("POST", "PUT", "DELETE")]
    assert (status, report["changes"], written) == (0, [], []), told


def test_after_any_fault_one_full_pass_makes_all_of_it_right(world: World, record_property: Tell) -> None:
    check(world, play(world, kills_the_stopped=True), record_property, "--full", "--prune")


def test_what_the_service_left_unfinished_a_plain_pass_finishes(world: World, record_property: Tell) -> None:
    check(world, play(world, kills_the_stopped=False), record_property)


def test_a_pass_that_was_killed_half_way_is_started_again_at_once(world: World) -> None:
    for _ in range(120):
        make_task(world.cast.alice, world.cast.artist, synced_generation=0)
    with world.command("sync_schedules", "--full") as process:
        until = time.monotonic() + 60
        while world.trigger.state.count_schedules() < 40 and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    connections.close_all()
    assert 40 <= world.trigger.state.count_schedules() < 120
    status, _ = world.sync("--full", "--prune")
    assert (status, world.wrong()) == (0, [])
