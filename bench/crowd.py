"""What those who wait for a run cost the others: 200 clients with `wait`, under workers of few and of many threads."""

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


class Crowd:
    """Clients that wait for a run that does not finish, and come again as they are told."""

    def __init__(self, port: int) -> None:
        self.port, self.is_over = port, threading.Event()
        self.threads = [threading.Thread(target=self.wait, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def wait(self) -> None:
        headers = {"x-api-key": data.key_of(1)}
        while not self.is_over.is_set():
            with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as http:
                http.request("GET", f"/api/tasks/runs?runId={data.UNFINISHED}&wait=25", headers=headers)
                response = http.getresponse()
                response.read()
                self.is_over.wait(float(response.headers.get("Retry-After", "0")))

    def end(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join(30)


def median_of_others(port: int) -> float:
    with Client(port, data.key_of(50)) as client:
        times = [client.get("/api/tasks") for _ in range(REPEAT)]
    return statistics.median(times)


def held(port: int) -> int:
    with Client(port, "") as client:
        _, body, _ = client.send("GET", "/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith("recoup_waiting_requests")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def calls_for_the_run(standin: StandinProcess, since: float) -> int:
    log: list[Any] = standin.control("GET", "log")
    return sum(at >= since and data.UNFINISHED in line for at, line in log)


def main(environment: dict[str, str], standin: StandinProcess) -> list[tuple[str, ...]]:
    return [row_of(threads, environment, standin) for threads in THREADS]


def row_of(threads: int, environment: dict[str, str], standin: StandinProcess) -> tuple[str, ...]:
    service = ServiceProcess({**environment, "TRIGGER_API_URL": standin.url, "THREADS": str(threads)})
    try:
        median_of_others(service.port)
        alone = median_of_others(service.port)
        crowd = Crowd(service.port)
        time.sleep(3)
        places = f"{held(service.port)} of {min(WORKERS * (threads - 16), CLIENTS)}"
        begun = time.time()
        beside = median_of_others(service.port)
        time.sleep(max(0.0, begun + 4 - time.time()))
        asked = f"{calls_for_the_run(standin, begun)} in {time.time() - begun:.1f} s"
        crowd.is_over.set()
    finally:
        service.end()
    crowd.end()
    medians = (f"{alone * 1000:.1f} ms", f"{beside * 1000:.1f} ms", f"{beside / alone:.2f} x")
    return (f"{threads} threads", places, *medians, asked)
