"""The stand-in and the service as they are run, and what the machine says of them."""

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
        answer = json.loads(http.getresponse().read())
        http.close()
        return answer

    def set_latency(self, seconds: float) -> None:
        self.control("DELETE", "faults")
        if seconds:
            self.control("POST", "faults", {"kind": "delay", "seconds": seconds})

    def hang(self) -> None:
        self.control("DELETE", "faults")
        self.control("POST", "faults", {"kind": "hang", "seconds": 20})

    def asked(self) -> int:
        return int(self.control("GET", "asked")["asked"].get("all", 0))

    def connections(self) -> int:
        """The most that were in use at once since this was last asked."""
        return int(self.control("GET", "asked")["most_in_use"])

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class ServiceProcess:
    """Gunicorn as the README runs it."""

    def __init__(self, environment: dict[str, str], *, workers: int = 2) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--log-level", "error", "recoup.wsgi"],
            cwd=ROOT,
            env={**environment, "PORT": str(self.port), "WEB_CONCURRENCY": str(workers)},
            start_new_session=True,
        )
        self.count = workers
        until = time.monotonic() + 60
        while len(self.workers()) < workers or not self.is_open():
            if time.monotonic() > until:
                raise RuntimeError("The service did not start.")
            time.sleep(0.1)

    def is_open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def cpu(self) -> float:
        """Seconds that the workers have used, of both kinds."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in self.workers()]
        return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS

    def peak_memory(self) -> float:
        """MB, of all workers together."""
        lines = [line for pid in self.workers() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def forget(self, key: str) -> None:
        """Empties the caches of all workers."""
        seen: set[int] = set()
        while len(seen) < self.count:
            with Client(self.port, key) as client:
                seen.add(json.loads(client.send("POST", "/bench/forget")[1])["worker"])

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)


class Client:
    """One connection that stays open."""

    def __init__(self, port: int, key: str) -> None:
        self.http = HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"x-api-key": key}

    def send(self, method: str, path: str, **headers: str) -> tuple[float, bytes, Any]:
        """(seconds, body, headers of the answer)"""
        begun = time.perf_counter()
        self.http.request(method, path, headers={**self.headers, **headers})
        response = self.http.getresponse()
        body = response.read()
        seconds = time.perf_counter() - begun
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {body[:300]!r}")
        return seconds, body, response.headers

    def get(self, path: str) -> float:
        return self.send("GET", path)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()
