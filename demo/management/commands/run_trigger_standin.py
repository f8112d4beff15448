"""Starts the stand-in for Trigger.dev on this machine. It is for development, and runs no tasks."""

import signal
import sys
import threading
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from core.parent_process import exit_with_parent
from demo.standin.schedules import fire_due
from demo.standin.server import StandinServer
from demo.standin.standin import Standin
from demo.standin.state import State

FIRE_INTERVAL = 0.5
ENVIRONMENT = {"id": "cmstandin0000000000000001", "name": "prod"}


class Command(BaseCommand):
    help = "Serve a development stand-in for Trigger.dev on 127.0.0.1. It runs no tasks."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=3040, help="0 chooses a free port (default: %(default)s)")
        parser.add_argument("--folder", type=Path, default=settings.STANDIN_FOLDER, help="where to store its state")
        parser.add_argument(
            "--rate-limit",
            type=int,
            default=750,
            help="requests per key in the token bucket; 0 disables the rate limit",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        state = State(options["folder"])
        standin = Standin(state, {settings.TRIGGER_SECRET_KEY: ENVIRONMENT}, rate_limit=options["rate_limit"])
        try:
            server = StandinServer(standin, port=options["port"])
        except OSError as error:
            sys.exit(f"Port {options['port']} cannot be used: {error.strerror}. Choose another port with --port.")
        if settings.STOP_WITH_PARENT:
            exit_with_parent()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=keep_firing, args=(state,), daemon=True).start()
        self.stdout.write(server.url)
        self.stdout.flush()
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            server.server_close()
            state.close()


def keep_firing(state: State) -> None:
    while True:
        fire_due(state)
        time.sleep(FIRE_INTERVAL)
