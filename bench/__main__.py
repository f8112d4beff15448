"""Measures, and prints three tables: what requests cost, what a waiting crowd does, and how it grows with the tasks."""

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

from bench import crowd, data, growth  # noqa: E402
from bench.processes import Client, ServiceProcess, StandinProcess  # noqa: E402

LATENCY = 0.05
REPEAT, REPEAT_COLD = 200, 5
DEADLINE = 3.0


@dataclass
class Row:
    """Seconds are medians. `ratio` is to the bare view, or for what is asked upstream, to one round trip."""

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
        """Beside a bare view of the same bytes, in turns."""
        with self.client(size) as client:
            for _ in range(20):
                client.get(path)
            _, body, _ = client.send("GET", path)
            (FOLDER / "bytes" / f"{size}{name}").write_bytes(body)
            _, _, headers = client.send("GET", path, **{"x-bench-queries": "1"})
            before = self.standin.asked()
            bare_path = f"/bench/bare?name={size}{name}".replace(" ", "%20")
            for _ in range(4):
                client.get(bare_path)
            mine, bare = self.in_turns(size, path, bare_path, clients)
            calls = self.standin.asked() - before
            cpu = self.cpu_of(client, path) / self.cpu_of(client, bare_path)
        ratio = statistics.median(mine) / statistics.median(bare)
        queries = headers["x-bench-queries"]
        shown = f"{ratio:.2f} x bare"
        self.rows.append(Row(name, statistics.median(mine), shown, str(calls), "", queries, f"{cpu:.2f} x"))

    def in_turns(self, size: int, path: str, bare_path: str, clients: int) -> tuple[list[float], list[float]]:
        mine: list[float] = []
        bare: list[float] = []

        def ask() -> None:
            with self.client(size) as client:
                for _ in range(REPEAT // clients):
                    mine.append(client.get(path))
                    bare.append(client.get(bare_path))

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return mine, bare

    def cpu_of(self, client: Client, path: str) -> float:
        """Of the workers, for one request."""
        before, begun, count = self.service.cpu(), time.monotonic(), 0
        while time.monotonic() < begun + 1.0:
            client.get(path)
            count += 1
        return max(self.service.cpu() - before, 0.01) / count

    def cold(self, name: str, path: str, *, size: int, round_trip: float) -> None:
        seconds, calls, most = [], [], []
        for _ in range(REPEAT_COLD):
            self.service.forget(data.key_of(size))
            self.standin.connections()
            before = self.standin.asked()
            with self.client(size) as client:
                seconds.append(client.get(path))
            most.append(self.standin.connections())
            calls.append(self.standin.asked() - before)
        median = statistics.median(seconds)
        ratio = f"{median / round_trip:.2f} x round trip"
        self.rows.append(Row(name, median, ratio, str(max(calls)), str(max(most))))

    def degraded(self, name: str, path: str, *, size: int) -> None:
        """Trigger.dev hangs, and nothing is known."""
        self.service.forget(data.key_of(size))
        with self.client(size) as client:
            begun = time.perf_counter()
            try:
                seconds = client.get(path)
            except RuntimeError:  # a 500 is the published answer where nothing is known of a run
                seconds = time.perf_counter() - begun
        self.rows.append(Row(name, seconds, f"deadline {seconds - DEADLINE:+.2f} s"))

    def round_trip(self) -> float:
        """The stand-in asked directly, for the runs of one schedule."""
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
        service.end()
        standin.end()


def measure(service: ServiceProcess, standin: StandinProcess) -> list[Row]:
    bench = Bench(service, standin)
    standin.set_latency(LATENCY)
    trip = bench.round_trip()
    bench.rows.append(Row(f"the stand-in with {LATENCY * 1000:.0f} ms", trip, "1 x round trip"))
    for size in data.SIZES:
        bench.cold(f"{size} tasks, cold", "/api/tasks", size=size, round_trip=trip)
        bench.warm(f"{size} tasks, warm", "/api/tasks", size=size)
        bench.warm(f"{size} tasks, warm, 8 clients", "/api/tasks", size=size, clients=8)
    for name, path in RUNS.items():
        bench.cold(f"{name}, cold", path, size=1, round_trip=trip)
        bench.warm(f"{name}, warm", path, size=1)
        bench.warm(f"{name}, warm, 8 clients", path, size=1, clients=8)
    standin.hang()
    for name, path in {"50 tasks": "/api/tasks", **RUNS}.items():
        bench.degraded(f"{name}, Trigger.dev hangs", path, size=50 if name == "50 tasks" else 1)
    standin.set_latency(0)
    return bench.rows


RUNS = {
    "a finished run": f"/api/tasks/runs?runId={data.FINISHED}",
    "an unfinished run": f"/api/tasks/runs?runId={data.UNFINISHED}",
    "the list of runs": "/api/tasks/runs",
}


def show(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def main() -> None:
    call_command("migrate", verbosity=0)
    data.make(FOLDER / "standin")
    with processes() as (service, standin):
        rows = measure(service, standin)
        memory = service.peak_memory()
        crowds = crowd.main({**os.environ, "STANDIN_FOLDER": str(FOLDER / "standin")}, standin)
    show(
        "What a request costs (this machine may be shared: compare the ratios)",
        ("request", "median", "ratio", "upstream calls", "of them at once", "queries", "CPU, to bare"),
        [
            (row.name, f"{row.seconds * 1000:.1f} ms", row.ratio, row.calls, row.connections, row.queries, row.cpu)
            for row in rows
        ],
    )
    show(
        "What 200 clients that wait for one run cost somebody else",
        ("workers", "held", "alone", "beside them", "ratio", "upstream calls for the run"),
        crowds,
    )
    Console().print(f"Peak memory of two workers under all of this: {memory:.0f} MB")
    show(
        "How that grows with the tasks in the database",
        ("database", "request", f"{growth.SMALL:,} tasks", f"{growth.LARGE:,} tasks", "ratio"),
        growth.main(FOLDER),
    )


if __name__ == "__main__":
    main()
