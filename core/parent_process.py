"""Stops a child process when the demo ends, even if the demo was killed: the pipe on standard input then closes."""

import os
import signal
import sys
import threading


def exit_with_parent() -> None:
    """Sends SIGTERM to this process when its standard input ends."""
    threading.Thread(target=_wait_for_end_of_input, daemon=True).start()


def _wait_for_end_of_input() -> None:
    # Not sys.stdin.read(): a forked worker would inherit its lock, held by a thread that does not exist in the worker.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
