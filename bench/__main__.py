"""Prints three tables: response times, the effect of long polling, and growth with the number of tasks."""

import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import django
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent.parent / "var" / "bench"
os.environ["DJANGO_SETTINGS_MODULE"] = "bench.settings"
os.environ["DATABASE_URL"] = f"sqlite:///{FOLDER / 'bench.sqlite3'}"
os.environ["LOG_LEVEL"] = "ERROR"
shutil.rmtree(FOLDER, ignore_errors=True)
(FOLDER / "bytes").mkdir(parents=True)
django.setup()

from django.core.management import call_command  # noqa: E402  Django must be set up first

from bench import data, growth, long_polling, restart, slow_readers  # noqa: E402
from bench.processes import Client, ServiceProcess, StandinProcess  # noqa: E402

LATENCY = 0.05
REPEAT, REPEAT_COLD = 200, 5
DEADLINE = 3.0


@dataclass
class Row:
    """`seconds` is a median. `ratio` compares with the bare view, or with one round trip if Trigger.dev is called."""

    name: str
    seconds: float
    ratio: str
    calls: str = ""
    connections: str = ""
    queries: str = ""
    cpu: str = ""


class Bench:
    def __init__(self, service: ServiceProcess, standin: StandinProcess) -> None:
        self.service, self.standin = service, standin
        self.rows: list[Row] = []

    def client(self, size: int) -> Client:
        return Client(self.service.port, data.key_of(size))

    def warm(self, name: str, path: str, *, size: int, clients: int = 1) -> None:
        """Measures with a warm cache, alternating with a bare view that returns the same bytes."""
        with self.client(size) as client:
            for _ in range(20):
                client.get(path)
            _, body, _ = client.send("GET", path)
            (FOLDER / "bytes" / f"{size}{name}").write_bytes(body)
            _, _, headers = client.send("GET", path, **{"x-bench-queries": "1"})
            calls_before = self.standin.call_count()
            bare_path = f"/bench/bare?name={size}{name}".replace(" ", "%20")
            for _ in range(4):
                client.get(bare_path)
            measured, bare = self.alternate(size, path, bare_path, clients)
            calls = self.standin.call_count() - calls_before
            cpu = self.cpu_per_request(client, path) / self.cpu_per_request(client, bare_path)
        ratio = f"{statistics.median(measured) / statistics.median(bare):.2f} x bare"
        queries = headers["x-bench-queries"]
        self.rows.append(Row(name, statistics.median(measured), ratio, str(calls), "", queries, f"{cpu:.2f} x"))

    def alternate(self, size: int, path: str, bare_path: str, clients: int) -> tuple[list[float], list[float]]:
        measured: list[float] = []
        bare: list[float] = []

        def measure_requests() -> None:
            with self.client(size) as client:
                for _ in range(REPEAT // clients):
                    measured.append(client.get(path))
                    bare.append(client.get(bare_path))

        threads = [threading.Thread(target=measure_requests) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return measured, bare

    def cpu_per_request(self, client: Client, path: str) -> float:
        """CPU seconds of all workers per request."""
        cpu_before, started_at, count = self.service.cpu_seconds(), time.monotonic(), 0
        while time.monotonic() < started_at + 1.0:
            client.get(path)
            count += 1
        return max(self.service.cpu_seconds() - cpu_before, 0.01) / count

    def cold(self, name: str, path: str, *, size: int, round_trip: float) -> None:
        """Measures with an empty cache."""
        seconds, calls, connections = [], [], []
        for _ in range(REPEAT_COLD):
            self.service.clear_caches(data.key_of(size))
            self.standin.most_connections()
            calls_before = self.standin.call_count()
            with self.client(size) as client:
                seconds.append(client.get(path))
            connections.append(self.standin.most_connections())
            calls.append(self.standin.call_count() - calls_before)
        median = statistics.median(seconds)
        ratio = f"{median / round_trip:.2f} x round trip"
        self.rows.append(Row(name, median, ratio, str(max(calls)), str(max(connections))))

    def degraded(self, name: str, path: str, *, size: int) -> None:
        """Measures with an empty cache while Trigger.dev hangs."""
        self.service.clear_caches(data.key_of(size))
        with self.client(size) as client:
            started_at = time.perf_counter()
            try:
                seconds = client.get(path)
            except RuntimeError:  # the published response is a 500 if a run is not cached
                seconds = time.perf_counter() - started_at
        self.rows.append(Row(name, seconds, f"deadline {seconds - DEADLINE:+.2f} s"))

    def round_trip(self) -> float:
        """Median seconds of a direct request to the stand-in for the runs of one schedule."""
        with Client(int(self.standin.url.rsplit(":", 1)[1]), "") as client:
            client.headers = {"Authorization": "Bearer tr_prod_standin"}
            path = "/api/v1/runs?filter%5Bschedule%5D=sched_x&page%5Bsize%5D=5"
            return statistics.median(client.get(path) for _ in range(21))


@contextmanager
def processes() -> Iterator[tuple[ServiceProcess, StandinProcess]]:
    environment = {**os.environ, "STANDIN_FOLDER": str(FOLDER / "standin")}
    standin = StandinProcess(environment)
    service = ServiceProcess({**environment, "TRIGGER_API_URL": standin.url})
    try:
        yield service, standin
    finally:
        service.stop()
        standin.stop()


def measure(service: ServiceProcess, standin: StandinProcess) -> list[Row]:
    bench = Bench(service, standin)
    standin.set_latency(LATENCY)
    round_trip = bench.round_trip()
    bench.rows.append(Row(f"stand-in with {LATENCY * 1000:.0f} ms latency", round_trip, "1 x round trip"))
    for size in data.SIZES:
        bench.cold(f"{size} tasks, cold", "/api/tasks", size=size, round_trip=round_trip)
        bench.warm(f"{size} tasks, warm", "/api/tasks", size=size)
        bench.warm(f"{size} tasks, warm, 8 clients", "/api/tasks", size=size, clients=8)
    for name, path in RUN_PATHS.items():
        bench.cold(f"{name}, cold", path, size=1, round_trip=round_trip)
        bench.warm(f"{name}, warm", path, size=1)
        bench.warm(f"{name}, warm, 8 clients", path, size=1, clients=8)
    standin.hang()
    for name, path in {"50 tasks": "/api/tasks", **RUN_PATHS}.items():
        bench.degraded(f"{name}, Trigger.dev hangs", path, size=50 if name == "50 tasks" else 1)
    standin.set_latency(0)
    return bench.rows


RUN_PATHS = {
    "finished run": f"/api/tasks/runs?runId={data.FINISHED}",
    "unfinished run": f"/api/tasks/runs?runId={data.UNFINISHED}",
    "list of runs": "/api/tasks/runs",
}


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def main() -> None:
    call_command("migrate", verbosity=0)
    data.create(FOLDER / "standin")
    with processes() as (service, standin):
        rows = measure(service, standin)
        memory = service.peak_memory()
        environment = {**os.environ, "STANDIN_FOLDER": str(FOLDER / "standin")}
        long_polling_rows = long_polling.main(environment, standin)
        size, slow_memory = slow_readers.main({**environment, "TRIGGER_API_URL": standin.url})
        first, later, calls = restart.main(environment, standin)
    print_table(
        "Response times (on a shared machine, compare the ratios)",
        ("request", "median", "ratio", "Trigger.dev calls", "concurrent calls", "queries", "CPU ratio to bare"),
        [
            (row.name, f"{row.seconds * 1000:.1f} ms", row.ratio, row.calls, row.connections, row.queries, row.cpu)
            for row in rows
        ],
    )
    print_table(
        "Effect of 200 long-polling clients on another caller",
        ("threads per worker", "waiting requests", "without", "with", "ratio", "Trigger.dev calls for the run"),
        long_polling_rows,
    )
    Console().print(f"Peak memory of both workers: {memory:.0f} MB")
    Console().print(f"Peak memory of a worker with eight slow readers of {size:.1f} MB each: {slow_memory:.0f} MB")
    Console().print(
        f"First list of {restart.SIZE} tasks after a start: {first * 1000:.1f} ms and {calls} calls, "
        f"later ones: {later * 1000:.1f} ms, ratio {first / later:.2f}"
    )
    print_table(
        "Growth with the number of tasks in the database",
        ("database", "request", f"{growth.SMALL:,} tasks", f"{growth.LARGE:,} tasks", "ratio"),
        growth.main(FOLDER, "bench.growth_process"),
    )
    print_table(
        "Growth with the number of stored runs (plans and retention above)",
        ("database", "query", f"{growth.SMALL:,} runs", f"{growth.LARGE_RUNS:,} runs", "ratio"),
        growth.main(FOLDER, "bench.history_process"),
    )


if __name__ == "__main__":
    main()
