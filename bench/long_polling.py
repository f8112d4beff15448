"""The effect of long polling on another caller: 200 waiting clients, with few and with many threads per worker."""

import statistics
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any

from bench import data
from bench.processes import Client, ServiceProcess, StandinProcess

CLIENTS = 200
REPEAT = 150
WORKERS = 2
THREADS = (32, 66, 116)


class LongPollingClients:
    """Clients that wait for a run that never finishes, and obey Retry-After."""

    def __init__(self, port: int) -> None:
        self.port, self.finished = port, threading.Event()
        self.threads = [threading.Thread(target=self.poll, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def poll(self) -> None:
        headers = {"x-api-key": data.key_of(1)}
        while not self.finished.is_set():
            with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as http:
                http.request("GET", f"/api/tasks/runs?runId={data.UNFINISHED}&wait=25", headers=headers)
                response = http.getresponse()
                response.read()
                self.finished.wait(float(response.headers.get("Retry-After", "0")))

    def stop(self) -> None:
        self.finished.set()
        for thread in self.threads:
            thread.join(30)


def median_of_other_caller(port: int) -> float:
    with Client(port, data.key_of(50)) as client:
        times = [client.get("/api/tasks") for _ in range(REPEAT)]
    return statistics.median(times)


def count_waiting_requests(port: int) -> int:
    with Client(port, "") as client:
        _, body, _ = client.send("GET", "/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith("recoup_waiting_requests")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def count_calls_for_run(standin: StandinProcess, since: float) -> int:
    log: list[Any] = standin.control("GET", "log")
    return sum(at >= since and data.UNFINISHED in line for at, line in log)


def main(environment: dict[str, str], standin: StandinProcess) -> list[tuple[str, ...]]:
    return [measure(threads, environment, standin) for threads in THREADS]


def measure(threads: int, environment: dict[str, str], standin: StandinProcess) -> tuple[str, ...]:
    service = ServiceProcess({**environment, "TRIGGER_API_URL": standin.url, "THREADS": str(threads)})
    try:
        median_of_other_caller(service.port)
        baseline = median_of_other_caller(service.port)
        clients = LongPollingClients(service.port)
        time.sleep(3)
        waiting = f"{count_waiting_requests(service.port)} of {min(WORKERS * (threads - 16), CLIENTS)}"
        started_at = time.time()
        under_load = median_of_other_caller(service.port)
        time.sleep(max(0.0, started_at + 4 - time.time()))
        calls = f"{count_calls_for_run(standin, started_at)} in {time.time() - started_at:.1f} s"
        clients.finished.set()
    finally:
        service.stop()
    clients.stop()
    medians = (f"{baseline * 1000:.1f} ms", f"{under_load * 1000:.1f} ms", f"{under_load / baseline:.2f} x")
    return (f"{threads} threads", waiting, *medians, calls)
