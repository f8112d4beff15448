"""Runs the service as in production: gunicorn with its workers, on the database of the test."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from django.db import connection

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port below the ephemeral range, so that no outgoing connection takes it before the service listens."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def database_url() -> str:
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{database['NAME']}"
    return "postgres://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**database)


class Service:
    """Gunicorn with its workers, as one process group."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self.environment, self.port, self.log = environment, free_port(), log
        self.is_suspended = self.is_down = False
        self.resumed_at = 0.0
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "--log-level", "error", "recoup.wsgi"],
                cwd=ROOT,
                env={**self.environment, "PORT": str(self.port)},
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not is_open(self.port):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.is_down = True
        self.signal(signal.SIGKILL)
        self.process.wait(20)

    def restart(self) -> None:
        self.start()
        self.is_down = False

    def suspend(self) -> None:
        self.is_suspended = True
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.is_suspended, self.resumed_at = False, time.monotonic()
