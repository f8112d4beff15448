"""Runs the whole service on this machine. This process starts the stand-in, gunicorn and the worker, and stops them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from io import StringIO
from types import FrameType
from typing import Any, NoReturn

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from accounts import staff
from accounts.credentials import api_keys
from demo.data import RUN_IDS, id_of
from demo.management.commands.seed_demo import refuse_real_trigger

HOST = "127.0.0.1"
STANDIN_PORT = 3040
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
POLL_INTERVAL = 0.1
SCREEN = """
  Recoup Tasks   http://{host}:{port}/api/docs/
  Admin site     http://{host}:{port}/admin/   ({staff_name}, password {staff_password})
  Trigger.dev    {standin}   (a stand-in that runs no tasks, see /standin/asked)

  List Alice's tasks with their recent runs and next times:
    curl -s 'http://{host}:{port}/api/tasks' -H 'x-api-key: {alice}'

  List Alice's runs, and show the one that is executing now:
    curl -s 'http://{host}:{port}/api/tasks/runs?limit=3' -H 'x-api-key: {alice}'
    curl -s 'http://{host}:{port}/api/tasks/runs?runId={run}' -H 'x-api-key: {alice}'
  The same with long polling: answers when the run changes, after 25 seconds at the latest:
    curl -s 'http://{host}:{port}/api/tasks/runs?runId={run}&wait=25' -H 'x-api-key: {alice}'

  Bob shares her organization and may read her tasks. Charlie gets a 403:
    curl -s 'http://{host}:{port}/api/tasks?account_id={alice_id}' -H 'x-api-key: {bob}'
    curl -s 'http://{host}:{port}/api/tasks?account_id={alice_id}' -H 'x-api-key: {charlie}'

  Pause Alice's morning report ("enabled": true resumes it):
    curl -s -X PATCH 'http://{host}:{port}/api/tasks' -H 'x-api-key: {alice}' -H 'content-type: application/json' \\
      -d '{{"id": "{task}", "enabled": false}}'

  Preview the next times of a schedule, and run the morning report once now:
    curl -s -G 'http://{host}:{port}/api/tasks/preview' -H 'x-api-key: {alice}' --data-urlencode 'schedule=0 9 * * 1-5'
    curl -s -X POST 'http://{host}:{port}/api/tasks/runs' -H 'x-api-key: {alice}' -H 'content-type: application/json' \\
      -d '{{"id": "{task}"}}'

  Compare all tasks with their schedules at Trigger.dev:
    TRIGGER_API_URL={standin} .venv/bin/python manage.py sync_schedules --full --dry-run

  Dora is an admin and may read all tasks:
    curl -s 'http://{host}:{port}/api/tasks?account_id={alice_id}' -H 'Authorization: Bearer {dora}'

  Readiness, and metrics of the calls to Trigger.dev:
    curl -s 'http://{host}:{port}/readyz'
    curl -s 'http://{host}:{port}/metrics' | grep recoup_

  Ctrl-C stops the demo. Your changes are kept for the next start.
"""


class Stopped(Exception):
    """The demo was stopped, or one of its processes has ended."""


class Command(BaseCommand):
    help = "Run the service with example data and a stand-in for Trigger.dev. Ctrl-C stops everything."

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_port_in_use(settings.PORT)
        refuse_real_trigger()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, handle_signal)
        children: list[subprocess.Popen[str]] = []
        try:
            call_command("migrate", verbosity=0)
            call_command("seed_demo", stdout=StringIO())
            self.run_children(children)
        except Stopped as reason:
            if str(reason):
                raise CommandError(str(reason)) from None
        finally:
            stop_children(children)

    def run_children(self, children: list[subprocess.Popen[str]]) -> None:
        port = str(STANDIN_PORT if is_free(STANDIN_PORT) else 0)
        standin = start_child(children, [sys.executable, "manage.py", "run_trigger_standin", "--port", port], {})
        url = read_line(standin)
        environment = {"TRIGGER_API_URL": url, "HOST": HOST, "PORT": str(settings.PORT), "LOG_LEVEL": "WARNING"}
        environment |= {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072"}
        command = [sys.executable, "-m", "gunicorn", "--log-level", "warning", "recoup.wsgi"]
        start_child(children, command, environment, quiet=False)
        start_child(children, [sys.executable, "manage.py", "run_worker"], environment)
        wait_until_serving(children)
        self.stdout.write(screen_text(url))
        self.stdout.flush()
        while True:
            check_children(children)
            time.sleep(POLL_INTERVAL)


def handle_signal(number: int, frame: FrameType | None) -> NoReturn:
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    raise Stopped


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def refuse_port_in_use(port: int) -> None:
    if not is_free(port):
        raise CommandError(f"Port {port} is in use. Try: PORT={port % 65535 + 1} make demo")


def start_child(
    children: list[subprocess.Popen[str]], command: list[str], environment: Mapping[str, str], *, quiet: bool = True
) -> subprocess.Popen[str]:
    """Starts a child in its own session, so Ctrl-C reaches only the demo. Its pipe closes if the demo is killed."""
    child = subprocess.Popen(  # noqa: S603  a fixed command
        command,
        cwd=settings.BASE_DIR,
        env={**os.environ, **environment, "STOP_WITH_PARENT": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        start_new_session=True,
    )
    children.append(child)
    return child


def read_line(child: subprocess.Popen[str]) -> str:
    line = child.stdout.readline().strip() if child.stdout else ""
    if not line:
        raise Stopped("The stand-in for Trigger.dev did not start.")
    return line


def wait_until_serving(children: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        check_children(children)
        try:
            with socket.create_connection((HOST, settings.PORT), timeout=1):
                return
        except OSError:
            time.sleep(POLL_INTERVAL)
    raise Stopped(f"The service did not start within {START_TIMEOUT:.0f} seconds.")


def check_children(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        if child.poll() is not None:
            raise Stopped(f"A process of the demo ended unexpectedly with exit status {child.returncode}.")


def stop_children(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT
    for child in children:
        try:
            child.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def screen_text(standin_url: str) -> str:
    return SCREEN.format(
        host=HOST,
        port=settings.PORT,
        standin=standin_url,
        staff_name=staff.DEMO_NAME,
        staff_password=staff.DEMO_PASSWORD,
        alice_id=id_of("alice"),
        run=RUN_IDS["video in the making"],
        task=id_of("Morning streaming report"),
        **{person: api_keys.demo_key(person) for person in ("alice", "bob", "charlie", "dora")},
    )
