"""What a process does before its first request, and how its worker shares its threads."""

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django import Settings

from core.connections import PGBOUNCER_ADVICE
from demo.standin.standin import Standin
from recoup.warm_up import warm_up
from recoup.wsgi import django_application
from tasks.models import RunFeed
from tasks.runs import reading
from tests.cast import Cast, make_task
from tests.services import ROOT, Service, database_url


def test_warming_up_computes_the_next_times_of_watched_tasks_and_changes_nothing(cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist, schedule="17 4 * * *", watched_until=timezone.now())
    make_task(cast.alice, cast.artist, schedule="18 4 * * *", watched_until=timezone.now() - timedelta(days=1))
    make_task(cast.alice, cast.artist, schedule="broken", watched_until=timezone.now())
    warm_up(django_application)
    computed = {schedule for schedule, _ in reading._cached_times}
    assert ("17 4 * * *" in computed, "18 4 * * *" in computed) == (True, False)
    assert (trigger.asked["all"], RunFeed.objects.count()) == (0, 0)


def test_a_process_starts_without_a_host(db: None, settings: Settings) -> None:
    settings.ALLOWED_HOSTS = []
    warm_up(django_application)


def test_a_process_starts_without_its_database(db: None, caplog: pytest.LogCaptureFixture) -> None:
    queries = []

    def fail(execute: object, sql: str, *arguments: object) -> None:
        queries.append(sql)
        raise OperationalError("away")

    with connection.execute_wrapper(fail):
        warm_up(django_application)
    assert (len(queries), caplog.messages) == (1, [])


def test_what_the_master_has_imported_can_be_forked() -> None:
    """Neither a thread nor a connection of the database would work in its workers."""
    code = (
        "import recoup.wsgi, threading; from django.core.cache import cache; from django.db import connections;"
        "print(threading.active_count(), [one.connection for one in connections.all()])"
    )
    environment = {**os.environ, "DATABASE_URL": "postgres://u@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1/0"}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert printed.stdout == "1 [None]\n"


def test_with_postgresql_nothing_is_written_into_the_checkout(tmp_path: Path) -> None:
    for package in ("recoup", "core"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "DATABASE_URL": "postgres://u@127.0.0.1:1/x", "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import recoup.settings"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["core", "recoup"]


class Pgbouncer(socketserver.BaseRequestHandler):
    """Refuses every connection, as pgbouncer does by default for one with startup options."""

    def handle(self) -> None:
        while (length := self.request.recv(4)) and (body := self.request.recv(int.from_bytes(length) - 4)):
            if body[:2] == b"\x04\xd2":  # a request for TLS or GSS encryption
                self.request.sendall(b"N")
                continue
            message = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
            self.request.sendall(b"E" + (len(message) + 4).to_bytes(4) + message)
            return


def test_a_command_behind_pgbouncer_says_what_to_set() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Pgbouncer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "DATABASE_URL": f"postgres://u@127.0.0.1:{server.server_address[1]}/x"}
        command = [sys.executable, "manage.py", "migrate"]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        server.shutdown()
    assert ended.returncode == 1
    assert ended.stderr == f"{PGBOUNCER_ADVICE}\n"


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_health_check_is_answered_and_the_worker_stops_while_clients_stall(tmp_path: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": database_url(), "WEB_CONCURRENCY": "1", "THREADS": "2"}
    service = Service(environment, tmp_path / "log")
    try:
        held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
        for one in held:
            # The body never comes, so its thread waits for it.
            one.sendall(b"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
        # Neither a probe that never ends nor a connection that says nothing takes the place of one that does.
        stalled = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(4)]
        for one in stalled[:3]:
            one.sendall(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(20):
            http = HTTPConnection("127.0.0.1", service.port, timeout=10)
            http.request("GET", "/healthz")
            assert json.loads(http.getresponse().read()) == {"status": "ok"}
            http.close()
        for one in [*held, *stalled[:3]]:
            one.close()
        http = HTTPConnection("127.0.0.1", service.port, timeout=10)
        http.request("GET", "/api/tasks")
        assert http.getresponse().status == 401
        http.close()
        service.signal(signal.SIGTERM)
        service.process.wait(8)
        stalled[3].close()
    finally:
        service.kill()
