"""A process that the demo started ends with it, even if that was killed: the pipe on its standard input closes."""

import os
import signal
import sys
import threading


def end_with_parent() -> None:
    """Sends this process a TERM once its standard input ends."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    # Not sys.stdin.read(): its lock would be held by a thread that a forked worker does not have.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
