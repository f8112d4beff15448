"""Load tests against real workers: long polling, outages of Trigger.dev, floods of bad requests, wrong passwords.

They check that other callers are served and how many calls Trigger.dev gets. The measurements are printed at the end of
the run. `make bench` measures response times.
"""

import json
import os
import random
import re
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
from urllib.parse import urlencode

import psycopg
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from pytest_django import Settings
from redis import Redis

from accounts.models import ArtistLink
from demo.standin.faults import Fault
from demo.standin.server import serve_in_thread
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.gateway.quota import LOOKUPS_OF_ONE
from tasks.models import Task
from tasks.runs.waiting import THREADS_FOR_OTHERS
from tasks.trigger.client import READ_TIMEOUT, ROUTES
from tests.cast import Cast, make_key, make_task
from tests.conftest import TRIGGER_KEY
from tests.services import ROOT, Service, database_url

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
# The environment variables set the threads per worker, and the number and the rate of the bad requests.
THREADS = int(os.environ.get("LOAD_THREADS", "66"))
GUESSES = int(os.environ.get("LOAD_GUESSES", "1000"))
GUESSES_PER_SECOND = float(os.environ.get("LOAD_GUESSES_PER_SECOND", "200"))
CLIENTS = 200
WORKERS = 2
POOL = 20
JSON = {"content-type": "application/json"}
RecordProperty = Callable[[str, object], None]


class TimedResponse:
    """Sends a request and keeps the response, its time and its duration. The status is 0 if there was no response."""

    def __init__(self, port: int, path: str, method: str = "GET", body: str | None = None, **headers: str) -> None:
        self.status, self.headers, self.body = 0, dict[str, str](), b""
        http = HTTPConnection("127.0.0.1", port, timeout=60)
        started_at = time.monotonic()
        with suppress(OSError, HTTPException):
            http.request(method, path, body, headers)
            response = http.getresponse()
            self.body = response.read()
            self.status, self.headers = response.status, dict(response.headers)
        http.close()
        self.at, self.seconds = time.time(), time.monotonic() - started_at

    def json(self) -> Any:
        return json.loads(self.body)


class Scenario:
    """A service with two workers, the stand-in, and the API keys of Alice and Bob."""

    def __init__(self, trigger: Standin, cast: Cast, url: str, folder: Path) -> None:
        self.trigger, self.cast, self.folder = trigger, cast, folder
        self.alice_key, self.bob_key = make_key(cast.alice), make_key(cast.bob)
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
    def has_redis(self) -> bool:
        return "REDIS_URL" in self.environment

    @property
    def setup(self) -> str:
        return f"{connection.vendor} {'with Redis' if self.has_redis else 'without Redis'}"

    def start(self, **environment: str) -> Service:
        self.environment |= environment
        self.service = Service(self.environment, self.folder / "service.log")
        return self.service

    def get(self, path: str, key: str = "", **headers: str) -> TimedResponse:
        return TimedResponse(self.service.port, path, **{"x-api-key": key or self.alice_key, **headers})

    def add_run(self, **fields: Any) -> StandinRun:
        tags = [f"account:{self.cast.alice.pk}"]
        return self.trigger.state.add_run(StandinRun("t", self.trigger.state.now, tags=tags, **fields))

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def calls_between(self, begin: float, end: float) -> int:
        return sum(begin <= at <= end for at in list(self.trigger.asked_at))


@pytest.fixture
def scenario(transactional_db: None, cast: Cast, trigger: Standin, tmp_path: Path) -> Iterator[Scenario]:
    trigger.rate_limit = 0
    server = serve_in_thread(trigger)
    scenario = Scenario(trigger, cast, server.url, tmp_path)
    yield scenario
    scenario.service.kill()
    server.shutdown()
    server.server_close()


def poll_until(probe: Callable[[], Any], *, every: float = 0.1) -> Any:
    """Polls until the probe returns a true value, at most one minute. Returns the last value."""
    deadline = time.monotonic() + 60
    while not (last := probe()) and time.monotonic() < deadline:
        time.sleep(every)
    return last


def start_threads(count: int, target: Callable[[int], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


class OtherCaller:
    """Bob, who lists his tasks again and again."""

    def __init__(self, scenario: Scenario, count: int = 150) -> None:
        responses = [scenario.get("/api/tasks", scenario.bob_key) for _ in range(count)]
        self.statuses = Counter(response.status for response in responses)
        self.median = statistics.median(response.seconds for response in responses)


def comparison(baseline: OtherCaller, under_load: OtherCaller) -> str:
    return (
        f"Bob's median {under_load.median * 1000:.1f} ms under load, {baseline.median * 1000:.1f} ms before, "
        f"{under_load.median / baseline.median:.2f} x"
    )


def count_connections(database: dict[str, Any], watcher: psycopg.Connection[Any]) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    row = watcher.execute(query, [database["NAME"]]).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def watch_connections() -> Iterator[list[int]]:
    """Samples, every few milliseconds, how many more connections PostgreSQL has than at the start."""
    samples, finished = [0], threading.Event()
    if connection.vendor != "postgresql":
        yield samples
        return
    database = connection.settings_dict
    address = {
        "host": database["HOST"],
        "port": database["PORT"],
        "user": database["USER"],
        "password": database["PASSWORD"],
    }
    with psycopg.connect(dbname="postgres", autocommit=True, **address) as watcher:
        before = count_connections(database, watcher)

        def watch() -> None:
            while not finished.wait(0.02):
                samples.append(count_connections(database, watcher) - before)

        watcher_thread = threading.Thread(target=watch, daemon=True)
        watcher_thread.start()
        yield samples
        finished.set()
        watcher_thread.join()


# --- Long polling ----------------------------------------------------------------------------------------------------

ENDS_AFTER = 18.0


class LongPollingClients:
    """Clients that wait for a run with long polling, and obey Retry-After until the run is finished."""

    def __init__(self, scenario: Scenario, run: StandinRun) -> None:
        self.scenario, self.path = scenario, f"/api/tasks/runs?runId={run.id}&wait=25"
        self.responses: list[list[TimedResponse]] = [[] for _ in range(CLIENTS)]
        self.threads = start_threads(CLIENTS, self.poll)

    def poll(self, number: int) -> None:
        while True:
            response = self.scenario.get(self.path)
            self.responses[number].append(response)
            if response.status != 200 or "Retry-After" not in response.headers:
                return
            time.sleep(float(response.headers["Retry-After"]))

    def join(self) -> list[TimedResponse]:
        """The last response of each client."""
        for thread in self.threads:
            thread.join(90)
        return [responses[-1] for responses in self.responses]


def test_many_long_polling_clients_do_not_slow_down_other_callers(
    scenario: Scenario, record_property: RecordProperty
) -> None:
    for _ in range(50):
        make_task(scenario.cast.bob, scenario.cast.artist)
    with watch_connections() as connections:
        scenario.start(THREADS=str(THREADS))
        capacity = min(CLIENTS, WORKERS * (THREADS - THREADS_FOR_OTHERS))
        baseline = OtherCaller(scenario)
        run = scenario.add_run(starts_after=0, ends_after=ENDS_AFTER, has_output=True, output="done")
        finished_at = run.created + ENDS_AFTER
        clients = LongPollingClients(scenario, run)
        poll_until(lambda: scenario.metric("recoup_waiting_requests") >= 0.9 * capacity)
        waiting = scenario.metric("recoup_waiting_requests")
        started_at = time.time()
        under_load = OtherCaller(scenario)
        last = clients.join()
    calls, period = scenario.calls_between(started_at, finished_at), finished_at - started_at
    seen_at = min(at for at in scenario.trigger.asked_at if at > finished_at)
    record_property(
        "summary",
        f"{CLIENTS} long-polling clients, {THREADS} threads, {scenario.setup}: {waiting:.0f} of {capacity} possible "
        f"waiting requests. {comparison(baseline, under_load)}. {calls} calls in {period:.1f} s. The end of the run "
        f"was detected after {seen_at - finished_at:.2f} s and sent to the last client "
        f"{max(response.at for response in last) - seen_at:.2f} s later. At most {max(connections)} connections",
    )
    assert {response.status for response in last} == {200}
    assert {response.json()["runs"][0]["status"] for response in last} == {"COMPLETED"}
    assert waiting >= 0.9 * capacity
    assert under_load.statuses == baseline.statuses == {200: 150}
    # Every two seconds a list for those who wait and, in each worker, the run for those who come again; and the newest
    # runs of all, every four seconds.
    assert calls <= (2 + WORKERS) * (period / 2 + 1)
    assert max(connections) <= WORKERS * POOL


def test_a_long_polling_client_that_disconnects_frees_its_place(scenario: Scenario) -> None:
    scenario.start(THREADS="18", WEB_CONCURRENCY="1")
    run = scenario.add_run(stuck_as="EXECUTING")
    for _ in range(3):
        with closing(HTTPConnection("127.0.0.1", scenario.service.port, timeout=30)) as http:
            http.request("GET", f"/api/tasks/runs?runId={run.id}&wait=25", headers={"x-api-key": scenario.alice_key})
            poll_until(lambda: scenario.metric("recoup_waiting_requests") >= 1)
        assert poll_until(lambda: scenario.metric("recoup_waiting_requests") == 0)


def test_a_worker_that_shuts_down_answers_its_long_polling_requests(scenario: Scenario) -> None:
    scenario.start(THREADS="18", WEB_CONCURRENCY="1")
    run = scenario.add_run(stuck_as="EXECUTING")
    responses: list[TimedResponse] = []
    (client_thread,) = start_threads(
        1, lambda _: responses.append(scenario.get(f"/api/tasks/runs?runId={run.id}&wait=25"))
    )
    poll_until(lambda: scenario.metric("recoup_waiting_requests") >= 1)
    scenario.service.signal(signal.SIGTERM)
    client_thread.join(30)
    (response,) = responses
    assert (response.status, response.headers["Retry-After"]) == (200, "2")


def test_an_accidental_second_start_keeps_the_metrics_of_the_first(scenario: Scenario) -> None:
    service = scenario.start()
    scenario.get("/api/tasks")
    environment = {**scenario.environment, "PORT": str(service.port)}
    command = [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "recoup.wsgi"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as second:
        poll_until(lambda: scenario.metric("django_http_responses_total_by_status_total") > 0)
        second.terminate()
    assert scenario.metric("django_http_responses_total_by_status_total") > 0


# --- Outages ---------------------------------------------------------------------------------------------------------


def send_json(scenario: Scenario, method: str, path: str, body: Any) -> TimedResponse:
    return TimedResponse(
        scenario.service.port, path, method, json.dumps(body), **{"x-api-key": scenario.alice_key, **JSON}
    )


def call_every_endpoint(scenario: Scenario, task: Task, run: StandinRun) -> dict[str, TimedResponse]:
    body = {"title": "t", "prompt": "p", "schedule": "0 9 * * *", "artist_account_id": str(scenario.cast.artist.pk)}
    responses = {
        "list": scenario.get("/api/tasks"),
        "runs": scenario.get("/api/tasks/runs"),
        "cached run": scenario.get(f"/api/tasks/runs?runId={run.id}"),
        "unknown run": scenario.get(f"/api/tasks/runs?runId=run_{random.randrange(10**9)}"),
        "create": send_json(scenario, "POST", "/api/tasks", body),
        "change": send_json(scenario, "PATCH", "/api/tasks", {"id": str(task.pk), "title": "u"}),
        "run now": send_json(scenario, "POST", "/api/tasks/runs", {"id": str(task.pk)}),
        "preview": scenario.get("/api/tasks/preview?schedule=0+9+*+*+*"),
    }
    created_id = responses["create"].json()["tasks"][0]["id"]
    return {**responses, "delete": send_json(scenario, "DELETE", "/api/tasks", {"id": created_id})}


def test_open_circuit_breakers_keep_responses_fast_while_trigger_hangs(
    scenario: Scenario, record_property: RecordProperty
) -> None:
    ArtistLink.objects.create(artist_account=scenario.cast.artist, account=scenario.cast.alice)
    for number in range(20):
        task = make_task(scenario.cast.alice, scenario.cast.artist, trigger_schedule_id=f"sched_{number}")
    run = scenario.add_run()
    scenario.start()
    scenario.get(f"/api/tasks/runs?runId={run.id}")
    scenario.trigger.faults.add(Fault("hang", seconds=30))
    started_at = time.monotonic()
    while scenario.metric("recoup_trigger_circuit_open") < WORKERS * len(ROUTES):
        for thread in start_threads(8, lambda _: call_every_endpoint(scenario, task, run)):
            thread.join()
    opened_after = time.monotonic() - started_at
    responses: dict[str, list[TimedResponse]] = defaultdict(list)
    for _ in range(10):
        for name, response in call_every_endpoint(scenario, task, run).items():
            responses[name].append(response)
    slowest = max(response.seconds for group in responses.values() for response in group)
    calls = len(scenario.trigger.asked_at)
    scenario.trigger.faults.clear()
    recovering_since = time.monotonic()
    has_recovered = poll_until(partial(is_all_fresh, scenario, task, run), every=0.3)
    statuses = {name: {response.status for response in group} for name, group in responses.items()}
    record_property(
        "summary",
        f"{scenario.setup}: all circuit breakers of both workers were open after {opened_after:.1f} s; then the "
        f"slowest of {sum(map(len, responses.values()))} responses of all endpoints took {slowest:.2f} s; {calls} "
        "calls in total. "
        f"After the recovery everything was fresh within {time.monotonic() - recovering_since:.1f} s",
    )
    assert has_recovered
    assert {*statuses["list"], *statuses["create"], *statuses["change"], *statuses["delete"]} == {200}
    assert statuses["unknown run"] == statuses["run now"] == {500}
    assert slowest < READ_TIMEOUT / 2, "a request waited for Trigger.dev"


def is_all_fresh(scenario: Scenario, task: Task, run: StandinRun) -> bool:
    tasks = [shown for _ in range(4) for shown in scenario.get("/api/tasks").json()["tasks"]]
    responses = call_every_endpoint(scenario, task, run)
    is_served = {response.status for name, response in responses.items() if name != "unknown run"} == {200}
    is_fresh = {shown["runs_status"] for shown in tasks} == {"fresh"}
    return is_served and responses["unknown run"].status == 404 and is_fresh


def test_after_a_429_of_trigger_no_call_is_made_before_the_rate_limit_reset(
    scenario: Scenario, record_property: RecordProperty
) -> None:
    task = make_task(scenario.cast.alice, scenario.cast.artist)
    scenario.start()
    finished = threading.Event()

    def keep_requesting(number: int) -> None:
        while not finished.wait(0.05):
            send_json(scenario, "POST", "/api/tasks/runs", {"id": str(task.pk)})

    clients = start_threads(8, keep_requesting)
    poll_until(lambda: scenario.trigger.asked["all"] > 50)
    scenario.trigger.faults.add(Fault("rate_limit", seconds=4))
    started_at = time.time()
    finished.wait(3.5)
    scenario.trigger.faults.clear()
    # Only calls that were already in progress at the first 429 may still arrive.
    late_calls = scenario.calls_between(started_at + 0.5, started_at + 3.5)
    resumed_after = poll_until(
        lambda: min((at - started_at for at in scenario.trigger.asked_at if at > started_at + 3.5), default=0)
    )
    finished.set()
    for thread in clients:
        thread.join(30)
    calls_in_progress = scenario.calls_between(started_at, started_at + 0.5)
    summary = (
        f"{scenario.setup}: {calls_in_progress} calls got the 429, {late_calls} came before the rate-limit reset, "
        f"calls resumed after {resumed_after:.1f} s"
    )
    record_property("summary", summary)
    assert late_calls == 0
    assert resumed_after >= 4
    assert calls_in_progress <= 8 + WORKERS


# --- Floods of bad requests ------------------------------------------------------------------------------------------


def test_a_flood_of_invalid_keys_and_unknown_runs_does_not_affect_other_callers(
    scenario: Scenario, record_property: RecordProperty
) -> None:
    """Thousands of invalid keys and unknown run ids, while Charlie lists tasks whose runs are not cached yet."""
    for _ in range(50):
        make_task(scenario.cast.bob, scenario.cast.artist)
    charlie_key = make_key(scenario.cast.charlie)
    # Whether Charlie's hundred first polls end within three seconds depends on the machine.
    scenario.start(LOG_LEVEL="INFO", REQUEST_DEADLINE="60")
    baseline = OtherCaller(scenario)
    counts, guessed_keys = Counter[tuple[str, int]](), set[str]()

    def guess(number: int) -> None:
        rng = random.Random(number)
        timer = threading.Event()
        with closing(HTTPConnection("127.0.0.1", scenario.service.port, timeout=60)) as http:
            for _ in range(GUESSES // 4):
                key = f"recoup_sk_{rng.getrandbits(200):x}"
                guessed_keys.add(key)
                run = f"run_{rng.getrandbits(120):x}"
                for name, path, headers in (
                    ("invalid key", "/api/tasks", {"x-api-key": key}),
                    ("unknown run", f"/api/tasks/runs?runId={run}", {"x-api-key": scenario.alice_key}),
                ):
                    http.request("GET", path, headers=headers)
                    response = http.getresponse()
                    response.read()
                    counts[name, response.status] += 1
                    timer.wait(4 / GUESSES_PER_SECOND)

    started_at = time.monotonic()
    guessers = start_threads(4, guess)
    poll_until(lambda: sum(counts.values()) > GUESSES // 10)
    for number in range(100):
        make_task(scenario.cast.charlie, scenario.cast.artist, trigger_schedule_id=f"sched_{number}")
    charlies_tasks = scenario.get("/api/tasks", charlie_key).json()["tasks"]
    under_load = OtherCaller(scenario)
    for thread in guessers:
        thread.join()
    minutes = (time.monotonic() - started_at) / 60
    lookup_calls = scenario.trigger.asked["GET /api/v3/runs/{id}"]
    log = (scenario.folder / "service.log").read_text()
    record_property(
        "summary",
        f"{scenario.setup}: {GUESSES} invalid keys and {GUESSES} unknown runs in {minutes * 60:.0f} s: {dict(counts)}; "
        f"{lookup_calls} calls for them. {comparison(baseline, under_load)}",
    )
    assert under_load.statuses == baseline.statuses == {200: 150}
    assert {task["runs_status"] for task in charlies_tasks} == {"fresh"}
    assert counts["invalid key", 401] <= 100 * (minutes + 2) * (1 if scenario.has_redis else WORKERS)
    assert lookup_calls <= 1000 * LOOKUPS_OF_ONE * (minutes + 2) * (1 if scenario.has_redis else WORKERS)
    assert {status for _, status in counts} == {401, 404, 429}
    assert scenario.metric('recoup_trigger_calls_total{outcome="quota"') == 0
    assert not [key for key in (*guessed_keys, scenario.alice_key, scenario.bob_key, TRIGGER_KEY) if key in log]


# --- Wrong passwords -------------------------------------------------------------------------------------------------

WRONG_PASSWORDS = 37


def log_in(scenario: Scenario, name: str, password: str, address: str) -> int:
    """The status of the login of the admin site, as a browser behind a proxy sends it."""
    page = scenario.get("/admin/login/")
    token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.body.decode())[0]
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    body = urlencode({"csrfmiddlewaretoken": token, "username": name, "password": password})
    form = {"content-type": "application/x-www-form-urlencoded", "cookie": cookie, "x-forwarded-for": address}
    return TimedResponse(scenario.service.port, "/admin/login/", "POST", body, **form).status


@pytest.mark.parametrize("kind", ["one address", "many addresses", "many addresses and users"])
def test_wrong_passwords_do_not_slow_down_the_api(
    scenario: Scenario, settings: Settings, record_property: RecordProperty, kind: str
) -> None:
    """Each password that is checked costs a third of a second of a processor."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    get_user_model().objects.create_superuser("sofie", password="a long password")
    scenario.start(TRUSTED_PROXIES="1")
    baseline, statuses, is_finished = OtherCaller(scenario), list[int](), threading.Event()

    def guess(_: int) -> None:
        for number in range(WRONG_PASSWORDS):
            address = "203.0.113.1" if kind == "one address" else f"203.0.113.{number}"
            name = f"user {number}" if "users" in kind else "sofie"
            statuses.append(log_in(scenario, name, "wrong", address))
        is_finished.set()

    start_threads(1, guess)
    under_load = OtherCaller(scenario)
    is_finished.wait(60)
    record_property("summary", f"{WRONG_PASSWORDS} wrong passwords, {kind}: {comparison(baseline, under_load)}")
    assert under_load.statuses == baseline.statuses == {200: 150}
    refused = 0 if "users" in kind else WRONG_PASSWORDS - 9 * (1 if scenario.has_redis else WORKERS)
    assert set(statuses) <= {200, 429}
    assert statuses.count(429) >= refused
    assert log_in(scenario, "sofie", "a long password", "198.51.100.7") == (302 if "users" in kind else 429)
