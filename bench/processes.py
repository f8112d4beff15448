"""Starts the stand-in and the service as processes, and measures their CPU time and memory."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class StandinProcess:
    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "manage.py", "run_trigger_standin", "--port", "0", "--rate-limit", "0"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self.url = self.process.stdout.readline().strip() if self.process.stdout else ""

    def control(self, method: str, path: str, body: Any = None) -> Any:
        http = HTTPConnection(str(urlsplit(self.url).hostname), urlsplit(self.url).port, timeout=30)
        http.request(method, f"/standin/{path}", json.dumps(body) if body else None)
        response_body = json.loads(http.getresponse().read())
        http.close()
        return response_body

    def set_latency(self, seconds: float) -> None:
        self.control("DELETE", "faults")
        if seconds:
            self.control("POST", "faults", {"kind": "delay", "seconds": seconds})

    def hang(self) -> None:
        self.control("DELETE", "faults")
        self.control("POST", "faults", {"kind": "hang", "seconds": 20})

    def call_count(self) -> int:
        return int(self.control("GET", "asked")["asked"].get("all", 0))

    def most_connections(self) -> int:
        """The highest number of concurrent connections since the last call of this method."""
        return int(self.control("GET", "asked")["most_in_use"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class ServiceProcess:
    """Gunicorn with the options of the README."""

    def __init__(self, environment: dict[str, str], *, workers: int = 2) -> None:
        self.port, self.worker_count = free_port(), workers
        self.environment = {**environment, "PORT": str(self.port), "WEB_CONCURRENCY": str(workers)}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--log-level", "error", "recoup.wsgi"],
            cwd=ROOT,
            env=self.environment,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while len(self.worker_pids()) < self.worker_count or not self.is_open():
            if time.monotonic() > deadline:
                raise RuntimeError("The service did not start.")
            time.sleep(0.1)

    def is_open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def worker_pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def cpu_seconds(self) -> float:
        """User and system CPU seconds of all workers."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in self.worker_pids()]
        return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS

    def peak_memory(self) -> float:
        """Peak memory of all workers together, in MB."""
        lines = [line for pid in self.worker_pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def clear_caches(self, key: str) -> None:
        """Clears the caches of all workers. Repeats the request until each worker has answered it."""
        cleared: set[int] = set()
        while len(cleared) < self.worker_count:
            with Client(self.port, key) as client:
                cleared.add(json.loads(client.send("POST", "/bench/clear-cache")[1])["worker"])

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)


class Client:
    """An HTTP client with one persistent connection."""

    def __init__(self, port: int, key: str) -> None:
        self.http = HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"x-api-key": key}

    def send(self, method: str, path: str, **headers: str) -> tuple[float, bytes, Any]:
        """Returns (seconds, response body, response headers)."""
        started_at = time.perf_counter()
        self.http.request(method, path, headers={**self.headers, **headers})
        response = self.http.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started_at
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {body[:300]!r}")
        return seconds, body, response.headers

    def get(self, path: str) -> float:
        """Returns the seconds of the request."""
        return self.send("GET", path)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()
