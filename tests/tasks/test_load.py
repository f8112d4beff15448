"""Crowds and outages against real workers: whom they hold, what Trigger.dev is asked meanwhile, and who notices.

What was measured is told at the end of the run; how long something takes is judged by `make bench`.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from redis import Redis

from accounts.models import ArtistLink
from demo.standin.faults import Fault
from demo.standin.server import serve_in_thread
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.gateway.budget import LOOKUPS_PER_MINUTE
from tasks.models import Task
from tasks.runs.waiting import THREADS_FOR_OTHERS
from tasks.trigger.client import READ_TIMEOUT, ROUTES
from tests.cast import Cast, make_key, make_task
from tests.conftest import TRIGGER_KEY
from tests.services import ROOT, Service, database_url

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
# LOAD_THREADS, LOAD_GUESSES and LOAD_GUESSES_A_SECOND in the environment choose other workers and another flood.
THREADS = int(os.environ.get("LOAD_THREADS", "66"))
GUESSES = int(os.environ.get("LOAD_GUESSES", "1000"))
GUESSES_A_SECOND = float(os.environ.get("LOAD_GUESSES_A_SECOND", "200"))
CLIENTS = 200
WORKERS = 2
POOL = 20
JSON = {"content-type": "application/json"}
Tell = Callable[[str, object], None]


class Answer:
    """What came back, and when. Status 0 for no answer."""

    def __init__(self, port: int, path: str, method: str = "GET", body: str | None = None, **headers: str) -> None:
        self.status, self.headers, self.body = 0, dict[str, str](), b""
        http = HTTPConnection("127.0.0.1", port, timeout=60)
        begun = time.monotonic()
        with suppress(OSError, HTTPException):
            http.request(method, path, body, headers)
            response = http.getresponse()
            self.body = response.read()
            self.status, self.headers = response.status, dict(response.headers)
        http.close()
        self.at, self.seconds = time.time(), time.monotonic() - begun

    def json(self) -> Any:
        return json.loads(self.body)


class World:
    """A service of two workers, the stand-in, and Alice's and Bob's keys."""

    def __init__(self, trigger: Standin, cast: Cast, url: str, folder: Path) -> None:
        self.trigger, self.cast, self.folder = trigger, cast, folder
        self.alice, self.bob = make_key(cast.alice), make_key(cast.bob)
        self.environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "TRIGGER_API_URL": url,
            "TRIGGER_SECRET_KEY": TRIGGER_KEY,
            "WEB_CONCURRENCY": str(WORKERS),
            "LOG_LEVEL": "WARNING",
        }
        if "TEST_REDIS_URL" in os.environ:
            self.environment["REDIS_URL"] = os.environ["TEST_REDIS_URL"]
            Redis.from_url(os.environ["TEST_REDIS_URL"]).flushdb()

    @property
    def is_shared(self) -> bool:
        return "REDIS_URL" in self.environment

    @property
    def kind(self) -> str:
        return f"{connection.vendor} {'with Redis' if self.is_shared else 'alone'}"

    def start(self, **environment: str) -> Service:
        self.environment |= environment
        self.service = Service(self.environment, self.folder / "service.log")
        return self.service

    def get(self, path: str, key: str = "", **headers: str) -> Answer:
        return Answer(self.service.port, path, **{"x-api-key": key or self.alice, **headers})

    def add_run(self, **fields: Any) -> StandinRun:
        tags = [f"account:{self.cast.alice.pk}"]
        return self.trigger.state.add_run(StandinRun("t", self.trigger.state.now, tags=tags, **fields))

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def calls_between(self, begin: float, end: float) -> int:
        return sum(begin <= at <= end for at in list(self.trigger.asked_at))


@pytest.fixture
def world(transactional_db: None, cast: Cast, trigger: Standin, tmp_path: Path) -> Iterator[World]:
    trigger.rate_limit = 0
    server = serve_in_thread(trigger)
    world = World(trigger, cast, server.url, tmp_path)
    yield world
    world.service.kill()
    server.shutdown()
    server.server_close()


def wait_until(found: Callable[[], Any], *, every: float = 0.1) -> Any:
    """What it finds, or what it found last after a minute."""
    until = time.monotonic() + 60
    while not (last := found()) and time.monotonic() < until:
        time.sleep(every)
    return last


def at_once(count: int, ask: Callable[[int], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


class Others:
    """Somebody else who reads a list all the time."""

    def __init__(self, world: World, count: int = 150) -> None:
        answers = [world.get("/api/tasks", world.bob) for _ in range(count)]
        self.statuses = Counter(answer.status for answer in answers)
        self.median = statistics.median(answer.seconds for answer in answers)


def connections_of(chosen: dict[str, Any], watcher: psycopg.Connection[Any]) -> int:
    question = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    row = watcher.execute(question, [chosen["NAME"]]).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def counted_connections() -> Iterator[list[int]]:
    """How many more PostgreSQL has, as it sees them itself, every few milliseconds."""
    found, over = [0], threading.Event()
    if connection.vendor != "postgresql":
        yield found
        return
    chosen = connection.settings_dict
    address = {"host": chosen["HOST"], "port": chosen["PORT"], "user": chosen["USER"], "password": chosen["PASSWORD"]}
    with psycopg.connect(dbname="postgres", autocommit=True, **address) as watcher:
        before = connections_of(chosen, watcher)

        def watch() -> None:
            while not over.wait(0.02):
                found.append(connections_of(chosen, watcher) - before)

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        yield found
        over.set()
        watching.join()


# --- Waiting ---------------------------------------------------------------------------------------------------------

ENDS_AFTER = 18.0


class Crowd:
    """Clients that wait for a run, and come again as they are told until it is finished."""

    def __init__(self, world: World, run: StandinRun) -> None:
        self.world, self.path = world, f"/api/tasks/runs?runId={run.id}&wait=25"
        self.answers: list[list[Answer]] = [[] for _ in range(CLIENTS)]
        self.threads = at_once(CLIENTS, self.wait)

    def wait(self, number: int) -> None:
        while True:
            answer = self.world.get(self.path)
            self.answers[number].append(answer)
            if answer.status != 200 or "Retry-After" not in answer.headers:
                return
            time.sleep(float(answer.headers["Retry-After"]))

    def join(self) -> list[Answer]:
        """The last answer of each."""
        for thread in self.threads:
            thread.join(90)
        return [answers[-1] for answers in self.answers]


def test_a_crowd_that_waits(world: World, record_property: Tell) -> None:
    for _ in range(50):
        make_task(world.cast.bob, world.cast.artist)
    with counted_connections() as connections:
        world.start(THREADS=str(THREADS))
        places = min(CLIENTS, WORKERS * (THREADS - THREADS_FOR_OTHERS))
        alone = Others(world)
        run = world.add_run(starts_after=0, ends_after=ENDS_AFTER, has_output=True, output="done")
        finish = run.created + ENDS_AFTER
        crowd = Crowd(world, run)
        wait_until(lambda: world.metric("recoup_waiting_requests") >= 0.9 * places)
        held = world.metric("recoup_waiting_requests")
        begun = time.time()
        beside = Others(world)
        last = crowd.join()
    calls, period = world.calls_between(begun, finish), finish - begun
    seen = min(at for at in world.trigger.asked_at if at > finish)
    record_property(
        "told",
        f"{CLIENTS} waiting clients, {THREADS} threads, {world.kind}: {held:.0f} held of {places} places. Others "
        f"{beside.median * 1000:.1f} ms instead of {alone.median * 1000:.1f}, {beside.median / alone.median:.2f} x. "
        f"{calls} calls in {period:.1f} s. The finish was seen after {seen - finish:.2f} s, and answered to the last "
        f"{max(answer.at for answer in last) - seen:.2f} s later. At most {max(connections)} connections",
    )
    assert {answer.status for answer in last} == {200}
    assert {answer.json()["runs"][0]["status"] for answer in last} == {"COMPLETED"}
    assert held >= 0.9 * places
    assert beside.statuses == alone.statuses == {200: 150}
    assert calls <= (1 if world.is_shared else WORKERS) * (period / 2 + 1)
    assert max(connections) <= WORKERS * POOL


def test_a_client_that_leaves_makes_room(world: World) -> None:
    world.start(THREADS="18", WEB_CONCURRENCY="1")
    run = world.add_run(stuck_as="EXECUTING")
    for _ in range(3):
        with closing(HTTPConnection("127.0.0.1", world.service.port, timeout=30)) as one:
            one.request("GET", f"/api/tasks/runs?runId={run.id}&wait=25", headers={"x-api-key": world.alice})
            wait_until(lambda: world.metric("recoup_waiting_requests") >= 1)
        assert wait_until(lambda: world.metric("recoup_waiting_requests") == 0)


def test_a_worker_that_ends_answers_those_who_wait(world: World) -> None:
    world.start(THREADS="18", WEB_CONCURRENCY="1")
    run = world.add_run(stuck_as="EXECUTING")
    answers: list[Answer] = []
    (waiting,) = at_once(1, lambda _: answers.append(world.get(f"/api/tasks/runs?runId={run.id}&wait=25")))
    wait_until(lambda: world.metric("recoup_waiting_requests") >= 1)
    world.service.signal(signal.SIGTERM)
    waiting.join(30)
    (answer,) = answers
    assert (answer.status, answer.headers["Retry-After"]) == (200, "2")


def test_a_second_start_by_mistake_leaves_the_counts_of_the_first(world: World) -> None:
    service = world.start()
    world.get("/api/tasks")
    environment = {**world.environment, "PORT": str(service.port)}
    command = [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "recoup.wsgi"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as second:
        wait_until(lambda: world.metric("django_http_responses_total_by_status_total") > 0)
        second.terminate()
    assert world.metric("django_http_responses_total_by_status_total") > 0


# --- Outages ---------------------------------------------------------------------------------------------------------


def write(world: World, method: str, path: str, body: Any) -> Answer:
    return Answer(world.service.port, path, method, json.dumps(body), **{"x-api-key": world.alice, **JSON})


def every_endpoint(world: World, task: Task, run: StandinRun) -> dict[str, Answer]:
    made = {"title": "t", "prompt": "p", "schedule": "0 9 * * *", "artist_account_id": str(world.cast.artist.pk)}
    answers = {
        "list": world.get("/api/tasks"),
        "runs": world.get("/api/tasks/runs"),
        "known run": world.get(f"/api/tasks/runs?runId={run.id}"),
        "unknown run": world.get(f"/api/tasks/runs?runId=run_{random.randrange(10**9)}"),
        "create": write(world, "POST", "/api/tasks", made),
        "change": write(world, "PATCH", "/api/tasks", {"id": str(task.pk), "title": "u"}),
        "run now": write(world, "POST", "/api/tasks/runs", {"id": str(task.pk)}),
        "preview": world.get("/api/tasks/preview?schedule=0+9+*+*+*"),
    }
    new = answers["create"].json()["tasks"][0]["id"]
    return {**answers, "delete": write(world, "DELETE", "/api/tasks", {"id": new})}


def test_a_trigger_that_hangs_holds_nobody_up_for_long(world: World, record_property: Tell) -> None:
    ArtistLink.objects.create(artist_account=world.cast.artist, account=world.cast.alice)
    for number in range(20):
        task = make_task(world.cast.alice, world.cast.artist, trigger_schedule_id=f"sched_{number}")
    run = world.add_run()
    world.start()
    world.get(f"/api/tasks/runs?runId={run.id}")
    world.trigger.faults.add(Fault("hang", seconds=30))
    begun = time.monotonic()
    while world.metric("recoup_trigger_circuit_open") < WORKERS * len(ROUTES):
        for thread in at_once(8, lambda _: every_endpoint(world, task, run)):
            thread.join()
    opened = time.monotonic() - begun
    answers: dict[str, list[Answer]] = defaultdict(list)
    for _ in range(10):
        for name, answer in every_endpoint(world, task, run).items():
            answers[name].append(answer)
    slowest = max(answer.seconds for got in answers.values() for answer in got)
    before = len(world.trigger.asked_at)
    world.trigger.faults.clear()
    begun = time.monotonic()
    is_well = wait_until(partial(all_is_fresh, world, task, run), every=0.3)
    statuses = {name: {answer.status for answer in got} for name, got in answers.items()}
    record_property(
        "told",
        f"{world.kind}: all circuit breakers of both workers were open after {opened:.1f} s; then the slowest of "
        f"{sum(map(len, answers.values()))} answers of all endpoints came in {slowest:.2f} s; {before} calls in all. "
        f"After its return all was fresh in {time.monotonic() - begun:.1f} s",
    )
    assert is_well
    assert {*statuses["list"], *statuses["create"], *statuses["change"], *statuses["delete"]} == {200}
    assert statuses["unknown run"] == statuses["run now"] == {500}
    assert slowest < READ_TIMEOUT / 2, "somebody waited for Trigger.dev"


def all_is_fresh(world: World, task: Task, run: StandinRun) -> bool:
    tasks = [one for _ in range(4) for one in world.get("/api/tasks").json()["tasks"]]
    answers = every_endpoint(world, task, run)
    is_answered = {answer.status for name, answer in answers.items() if name != "unknown run"} == {200}
    return is_answered and answers["unknown run"].status == 404 and {one["runs_status"] for one in tasks} == {"fresh"}


def test_after_a_429_nothing_is_asked_until_its_reset(world: World, record_property: Tell) -> None:
    world.start()
    over = threading.Event()

    def keep_asking(number: int) -> None:
        while not over.is_set():
            world.get(f"/api/tasks/runs?limit={random.randrange(1, 100)}")

    crowd = at_once(8, keep_asking)
    wait_until(lambda: world.trigger.asked["all"] > 50)
    world.trigger.faults.add(Fault("rate_limit", seconds=4))
    begun = time.time()
    over.wait(3.5)
    world.trigger.faults.clear()
    # What was under way when the first 429 came is what may still be asked.
    late = world.calls_between(begun + 0.5, begun + 3.5)
    resumed = wait_until(lambda: min((at - begun for at in world.trigger.asked_at if at > begun + 3.5), default=0))
    over.set()
    for thread in crowd:
        thread.join(30)
    under_way = world.calls_between(begun, begun + 0.5)
    told = (
        f"{world.kind}: {under_way} calls met the 429, {late} came before its reset, asked again after {resumed:.1f} s"
    )
    record_property("told", told)
    assert late == 0
    assert resumed >= 4
    assert under_way <= 8 + WORKERS


# --- Strangers -------------------------------------------------------------------------------------------------------


def test_strangers_who_guess_are_nobodys_burden(world: World, record_property: Tell) -> None:
    """Bad keys and made-up runs by the thousand, while Charlie reads a list that nothing is known of yet."""
    for _ in range(50):
        make_task(world.cast.bob, world.cast.artist)
    charlie = make_key(world.cast.charlie)
    world.start(LOG_LEVEL="INFO")
    alone = Others(world)
    counts, guessed = Counter[tuple[str, int]](), set[str]()

    def guess(number: int) -> None:
        chance = random.Random(number)
        pace = threading.Event()
        with closing(HTTPConnection("127.0.0.1", world.service.port, timeout=60)) as http:
            for _ in range(GUESSES // 4):
                key = f"recoup_sk_{chance.getrandbits(200):x}"
                guessed.add(key)
                run = f"run_{chance.getrandbits(120):x}"
                for name, path, headers in (
                    ("bad key", "/api/tasks", {"x-api-key": key}),
                    ("made-up run", f"/api/tasks/runs?runId={run}", {"x-api-key": world.alice}),
                ):
                    http.request("GET", path, headers=headers)
                    response = http.getresponse()
                    response.read()
                    counts[name, response.status] += 1
                    pace.wait(4 / GUESSES_A_SECOND)

    begun = time.monotonic()
    crowd = at_once(4, guess)
    wait_until(lambda: sum(counts.values()) > GUESSES // 10)
    for number in range(100):
        make_task(world.cast.charlie, world.cast.artist, trigger_schedule_id=f"sched_{number}")
    charlies = world.get("/api/tasks", charlie).json()["tasks"]
    beside = Others(world)
    for thread in crowd:
        thread.join()
    minutes = (time.monotonic() - begun) / 60
    looked_up = world.trigger.asked["GET /api/v3/runs/{id}"]
    log = (world.folder / "service.log").read_text()
    record_property(
        "told",
        f"{world.kind}: {GUESSES} bad keys and {GUESSES} made-up runs in {minutes * 60:.0f} s: {dict(counts)}; "
        f"{looked_up} calls for them. Others {beside.median * 1000:.1f} ms instead of {alone.median * 1000:.1f}, "
        f"{beside.median / alone.median:.2f} x",
    )
    assert beside.statuses == alone.statuses == {200: 150}
    assert {task["runs_status"] for task in charlies} == {"fresh"}
    assert counts["bad key", 401] <= 100 * (minutes + 2) * (1 if world.is_shared else WORKERS)
    assert looked_up <= LOOKUPS_PER_MINUTE * (minutes + 2) * (1 if world.is_shared else WORKERS)
    assert {status for _, status in counts} == {401, 404, 429}
    assert world.metric('recoup_trigger_calls_total{outcome="budget"') == 0
    assert not [key for key in (*guessed, world.alice, world.bob, TRIGGER_KEY) if key in log]
