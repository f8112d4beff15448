"""What clients see while something that the service needs is away: `make faults`, or FAULT_SECONDS=5 for a short form.

Twenty clients send 25 requests a second. Each scenario starts the service anew, lets a fault last, ends it, and waits.
The short form also runs where others use the machine, so it judges no times: it asks for right answers, for no failure
where none is allowed, and for a service that has recovered at the end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psycopg
from rich.console import Console
from rich.table import Table

from bench.processes import ROOT, ServiceProcess, StandinProcess
from faults.clients import Clients
from faults.servers import MAX_CONNECTIONS, Missing, Postgres, Redis, SmallDisk, wait_until

SECONDS = float(os.environ.get("FAULT_SECONDS", "60"))
IS_SHORT = SECONDS < 60
BEFORE, AFTER = 5.0, min(12.0, max(6.0, SECONDS / 5))
WORKERS = 2
MAX_RECOVERY, MAX_PROBE = 2.0, 1.0  # seconds
ONLY = os.environ.get("FAULTS", "")


@dataclass
class Stage:
    """Where a scenario takes place."""

    service: ServiceProcess
    standin: StandinProcess
    postgres: Postgres | None
    redis: Redis | None
    disk: SmallDisk | None


@dataclass(frozen=True)
class Scenario:
    """`begin` starts the fault, `end` ends it. `needs`: `postgres`, `redis`, `disk`."""

    name: str
    begin: Callable[[Stage], object]
    end: Callable[[Stage], object] | None = None  # None: the fault is over when `begin` returns
    seconds: float = 10.0
    max_failures: int | None = 0  # 0: ever; else of the requests sent while it lasts; None: any number
    needs: tuple[str, ...] = ("postgres", "redis")


def postgres(stage: Stage) -> Postgres:
    return cast(Postgres, stage.postgres)


def redis(stage: Stage) -> Redis:
    return cast(Redis, stage.redis)


def disk(stage: Stage) -> SmallDisk:
    return cast(SmallDisk, stage.disk)


held: list[psycopg.Connection] = []


def take_connections(stage: Stage) -> None:
    """All that are left, and again those of the service, which then has to ask for new ones."""
    for _ in range(20):
        fill_connections(stage)
        mine = [connection.info.backend_pid for connection in held]
        others = "backend_type = 'client backend' AND NOT pid = ANY(%s)"
        killed = held[0].execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}", [mine])  # noqa: S608
        if not killed.fetchall():
            return


def fill_connections(stage: Stage) -> None:
    url = postgres(stage).url.replace("postgres://", "postgresql://")
    for _ in range(2 * MAX_CONNECTIONS):
        try:
            held.append(psycopg.connect(url, autocommit=True))
        except psycopg.OperationalError:
            return


def give_connections_back(stage: Stage) -> None:
    while held:
        held.pop().close()


def kill_worker(stage: Stage) -> None:
    os.kill(stage.service.worker_pids()[0], signal.SIGKILL)


def reload(stage: Stage) -> None:
    stage.service.process.send_signal(signal.SIGHUP)


def restart(stage: Stage) -> None:
    """Another service takes over its port, as behind a load balancer that knows who is ready."""
    stage.service.process.send_signal(signal.SIGTERM)
    stage.service.process.wait(20)
    stage.service.start()


SCENARIOS = (
    Scenario("nothing", lambda stage: None),
    Scenario(
        "PostgreSQL stopped",
        lambda stage: postgres(stage).stop(),
        lambda stage: postgres(stage).start(),
        seconds=SECONDS,
        max_failures=None,
    ),
    Scenario("PostgreSQL restarted", lambda stage: postgres(stage).restart(), max_failures=WORKERS),
    Scenario(
        "PostgreSQL hangs",
        lambda stage: postgres(stage).suspend(),
        lambda stage: postgres(stage).resume(),
        max_failures=None,
    ),
    Scenario(
        "PostgreSQL has no connections left",
        take_connections,
        give_connections_back,
        max_failures=None,
    ),
    Scenario("Redis stopped", lambda stage: redis(stage).stop(), lambda stage: redis(stage).start()),
    Scenario(
        "Redis full",
        lambda stage: redis(stage).command("CONFIG", "SET", "maxmemory", "1"),
        lambda stage: redis(stage).command("CONFIG", "SET", "maxmemory", "0"),
    ),
    Scenario(
        "Redis read-only",
        lambda stage: redis(stage).command("REPLICAOF", "127.0.0.1", "1"),
        lambda stage: redis(stage).command("REPLICAOF", "NO", "ONE"),
    ),
    Scenario(
        "Redis hangs",
        lambda stage: redis(stage).suspend(),
        lambda stage: redis(stage).resume(),
    ),
    Scenario(
        "Trigger.dev hangs",
        lambda stage: stage.standin.process.send_signal(signal.SIGSTOP),
        lambda stage: stage.standin.process.send_signal(signal.SIGCONT),
    ),
    Scenario("A worker is killed", kill_worker, max_failures=3),
    Scenario("SIGHUP", reload),
    Scenario("SIGTERM, and a new start", restart, max_failures=None),
    Scenario(
        "The disk is full (SQLite)",
        lambda stage: disk(stage).fill(),
        lambda stage: disk(stage).clear(),
        max_failures=None,
        needs=("disk",),
    ),
)


@contextmanager
def stage_for(scenario: Scenario, folder: Path) -> Iterator[tuple[Stage, list[Mapping[str, object]]]]:
    found: list[Callable[[], object]] = []
    try:
        small_disk = SmallDisk(folder / "disk") if "disk" in scenario.needs else None
        found += [small_disk.unmount] if small_disk else []
        database = Postgres(folder / "postgres") if "postgres" in scenario.needs else None
        found += [database.stop] if database else []
        cache = Redis(folder / "redis") if "redis" in scenario.needs else None
        found += [cache.stop] if cache else []
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "recoup.settings",
            "DATABASE_URL": database.url if database else f"sqlite:///{folder / 'disk' / 'recoup.sqlite3'}",
            "REDIS_URL": cache.url if cache else "",
            "STANDIN_FOLDER": str(folder / "standin"),
            "LOG_LEVEL": os.environ.get("LOG_LEVEL", "CRITICAL"),
        }
        command = [sys.executable, "-m", "faults.data", str(folder / "standin")]
        created = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)  # noqa: S603
        standin = StandinProcess(environment)
        found.append(standin.process.kill)
        environment["TRIGGER_API_URL"] = standin.url
        worker = subprocess.Popen([sys.executable, "manage.py", "run_worker"], cwd=ROOT, env=environment)
        found.append(worker.kill)
        service = ServiceProcess(environment)
        found.append(lambda: os.killpg(service.process.pid, signal.SIGKILL))
        yield Stage(service, standin, database, cache, small_disk), json.loads(created.stdout)
    finally:
        for stop in reversed(found):
            stop()


def play(scenario: Scenario, table: Table) -> list[str]:
    """What is worse than allowed."""
    folder = Path(tempfile.mkdtemp(prefix="recoup-faults-"))
    folder.chmod(0o755)
    try:
        with stage_for(scenario, folder) as (stage, owners):
            with Clients(stage.service.port, owners) as clients:
                wait_until(lambda: clients.know_all_runs(last=3 * len(owners)), seconds=120)
                time.sleep(BEFORE)
                began = time.monotonic()
                scenario.begin(stage)
                if scenario.end is not None:
                    time.sleep(min(scenario.seconds, SECONDS))
                    scenario.end(stage)
                ended = time.monotonic()
                time.sleep(AFTER)
            return report(scenario, table, clients, began=began, ended=ended)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(scenario: Scenario, table: Table, clients: Clients, *, began: float, ended: float) -> list[str]:
    answers = [answer for answer in clients.answers if answer.at >= began]
    wrong = [answer.wrong for answer in answers if answer.wrong]
    failures = [answer for answer in answers if answer.is_failure]
    # A request that was sent while the fault lasted may be answered after it.
    failed_during = sum(answer.sent_at <= ended for answer in failures)
    failed_after = [answer.sent_at - ended for answer in failures if answer.sent_at > ended]
    recovery = max(failed_after, default=0.0)
    healthz = [answer for answer in clients.healthz if answer.at >= began]
    unavailable = sum(answer.is_unavailable for answer in answers)
    slowest_probe = max((answer.seconds for answer in healthz), default=0.0)
    bad_probes = sum(answer.status != 200 for answer in healthz)
    table.add_row(
        scenario.name,
        *map(str, (len(answers), len(wrong), sum(answer.status >= 500 for answer in answers))),
        *map(str, (sum(answer.status == 0 for answer in answers), len(failed_after), unavailable)),
        f"{max(answer.seconds for answer in answers):.1f}",
        f"{recovery:.1f}",
        f"{slowest_probe:.2f}" + (f", {bad_probes} failed" if bad_probes else ""),
    )
    found = [f"{unavailable} lists with runs that are unavailable"] if unavailable else []
    found += [f"{len(wrong)} wrong answers, such as: {wrong[0]}"] if wrong else []
    if scenario.max_failures == 0:
        found += [f"{len(failures)} requests failed, none may"] if failures else []
    elif recovery > (AFTER - 2 if IS_SHORT else MAX_RECOVERY):
        found.append(f"requests failed until {recovery:.1f} s after the fault")
    if IS_SHORT:
        return [f"{scenario.name}: {text}" for text in found]
    if scenario.max_failures is not None and failed_during > scenario.max_failures:
        found.append(f"{failed_during} requests failed, at most {scenario.max_failures} may")
    if len(failed_after) > WORKERS:
        found.append(f"{len(failed_after)} requests sent after the fault failed, at most one of each worker may")
    if slowest_probe > MAX_PROBE and "SIG" not in scenario.name:
        found.append(f"/healthz took {slowest_probe:.1f} s")
    return [f"{scenario.name}: {text}" for text in found]


def main() -> int:
    table = Table(title=f"25 requests a second; PostgreSQL is stopped for {SECONDS:.0f} s, other faults last less")
    for column in (
        "Fault",
        "Requests",
        "Wrong",
        "5xx",
        "No answer",
        "Failed after",
        "Unavailable",
        "Slowest s",
        "Recovery s",
        "/healthz s",
    ):
        table.add_column(column, justify="left" if column == "Fault" else "right")
    problems = list[str]()
    for scenario in SCENARIOS:
        if ONLY.lower() not in scenario.name.lower():
            continue
        try:
            problems += play(scenario, table)
        except Missing as missing:
            table.add_row(scenario.name, f"not played: {missing} is missing")
    Console(width=145).print(table)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
