"""The memory of one worker while eight clients read the largest list that an account may have, and read it slowly."""

import socket
import subprocess
import sys
import time
from contextlib import ExitStack

from bench import data
from bench.processes import ROOT, Client, ServiceProcess

# As in the documented start.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072"}
READERS = 8
# So many lists are read before, as in a worker that has been running for a while.
LISTS = 10
# Until all answers are ready to be read.
WAIT = 8.0


def main(environment: dict[str, str]) -> tuple[float, float]:
    """Megabytes: of the list, and of the worker at most."""
    key, manage = data.key_of(data.LARGEST), [sys.executable, "manage.py"]
    # As in the documented start, where `run_worker` polls.
    subprocess.run([*manage, "sync_runs", "--backfill"], cwd=ROOT, env=environment, check=True, capture_output=True)  # noqa: S603
    worker = subprocess.Popen([*manage, "run_worker"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
    service = ServiceProcess({**environment, **MALLOC}, workers=1)
    try:
        with Client(service.port, key) as client:
            sizes = [len(client.send("GET", "/api/tasks")[1]) for _ in range(LISTS)]
        with ExitStack() as readers:
            for _ in range(READERS):
                reader = readers.enter_context(socket.socket())
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.connect(("127.0.0.1", service.port))
                reader.sendall(f"GET /api/tasks HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n\r\n".encode())
            time.sleep(WAIT)
            return sizes[-1] / 1e6, service.peak_memory()
    finally:
        service.stop()
        worker.terminate()
        worker.wait(20)
