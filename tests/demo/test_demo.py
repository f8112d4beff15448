"""The demo command with real processes and real signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import pytest

from tests.services import ROOT, free_port, is_open

# make test-slow runs the tests of each file one after the other, because every demo uses the port of the stand-in.
pytestmark = pytest.mark.slow
EXIT_TIMEOUT = 60


class Demo:
    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "TRIGGER_API_URL")},
            "DATABASE_URL": f"sqlite:///{folder / 'demo.sqlite3'}",
            "STANDIN_FOLDER": str(folder / "standin"),
            "PORT": str(port),
        }
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "demo"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.screen = self.read_screen()

    def read_screen(self) -> str:
        lines: list[str] = []
        assert self.process.stdout
        for line in self.process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        return "".join(lines)

    def get(self, path: str, key: str = "") -> tuple[int, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"x-api-key": key})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            is_json = error.headers.get_content_type() == "application/json"
            return error.code, json.load(error) if is_json else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def run_command(self, *arguments: str) -> Any:
        completed = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=ROOT, env=self.environment, capture_output=True, check=True
        )
        return json.loads(completed.stdout)

    def descendants(self) -> set[int]:
        """The process ids of the demo and of all its descendants, from the process table."""
        listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True, text=True).stdout  # noqa: S607
        parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listing.splitlines())}
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
            found |= more
        return found


def wait_until_gone(pids: set[int], port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and (is_open(port) or any(is_running(pid) for pid in pids)):
        time.sleep(0.05)
    assert not is_open(port)
    assert [pid for pid in pids if is_running(pid)] == []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    with Demo(tmp_path, free_port()) as demo:
        yield demo


def test_alice_reads_her_tasks_and_runs_with_the_printed_api_key(demo: Demo) -> None:
    assert f"curl -s 'http://127.0.0.1:{demo.port}/api/tasks'" in demo.screen
    ids = demo.run_command("seed_demo", "--json")
    key = ids["accounts"]["alice"]["api_key"]
    assert key in demo.screen
    status, body = demo.get("/api/tasks", key)
    assert (status, len(body["tasks"])) == (200, 6)
    assert {task["runs_status"] for task in body["tasks"]} == {"fresh"}
    status, body = demo.get(f"/api/tasks/runs?runId={ids['runs']['finished video']}", key)
    assert (status, body["runs"][0]["output"]["template"]) == (200, "artist-caption-bedroom")
    assert demo.get("/api/tasks/runs", ids["accounts"]["charlie"]["api_key"] + "x")[0] == 401
    status, body = demo.get("/api/tasks?id=" + "x" * 5_000, key)
    assert (status, body["status"]) == (400, "error")
    assert demo.get("/api/tasks?id=" + "x" * 100_000, key)[0] == 414
    status, body = demo.get("/api/tasks/runs", "x" * 100_000)
    assert (status, set(body)) == (401, {"status", "error"})


def test_a_chunked_request_body_is_read(demo: Demo) -> None:
    ids = demo.run_command("seed_demo", "--json")
    first, second = ids["tasks"]["New release radar"], ids["tasks"]["Short video ideas"]
    headers = {"x-api-key": ids["accounts"]["alice"]["api_key"], "content-type": "application/json"}
    statuses = []
    for query, task_id in ((f"?id={first}", second), ("", second)):
        with closing(HTTPConnection("127.0.0.1", demo.port, timeout=10)) as connection:
            chunks = iter([json.dumps({"id": task_id}).encode()])
            connection.request("DELETE", f"/api/tasks{query}", body=chunks, headers=headers, encode_chunked=True)
            statuses.append(connection.getresponse().status)
    assert statuses == [400, 200]
    _, body = demo.get("/api/tasks", ids["accounts"]["alice"]["api_key"])
    assert first in {task["id"] for task in body["tasks"]}


def test_a_malformed_header_with_an_api_key_is_neither_logged_nor_repeated(demo: Demo) -> None:
    with socket.create_connection(("127.0.0.1", demo.port)) as connection:
        connection.sendall(
            b"GET /api/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer recoup_sk_secret\r\n\r\n"
        )
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    demo.process.terminate()
    assert demo.process.stdout
    assert b"recoup_sk_secret" not in answer + demo.process.stdout.read().encode()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_the_demo_leaves_no_process_running_after_any_signal(demo: Demo, ending: signal.Signals) -> None:
    pids = demo.descendants()
    assert len(pids) >= 4, "the demo, the stand-in, gunicorn and its workers"
    demo.process.send_signal(ending)
    demo.process.wait(15)
    wait_until_gone(pids, demo.port)


def test_a_port_in_use_is_reported_before_anything_is_created(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), Demo(tmp_path, port) as demo:
        assert demo.process.wait(EXIT_TIMEOUT) == 1
    assert f"Port {port} is in use. Try: PORT={port + 1} make demo" in demo.screen
    assert list(tmp_path.iterdir()) == []


def test_a_second_demo_works_with_the_data_of_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        with Demo(tmp_path, free_port()) as demo:
            key = demo.run_command("seed_demo", "--json")["accounts"]["alice"]["api_key"]
            assert demo.get("/api/tasks", key)[0] == 200
            demo.process.terminate()
            assert demo.process.wait(EXIT_TIMEOUT) == 0
