"""How gunicorn serves the API: `gunicorn recoup.wsgi`. README.md lists the environment variables."""

import ctypes
import json
import logging
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from typing import Any

from gunicorn import util
from gunicorn.http import message

from recoup import settings

# Where the workers of this master put their counts together; the library looks for it when it is imported. A reload
# keeps the folder; another master, that takes over or was started by mistake, has its own.
if "prometheus_client" not in sys.modules:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="recoup-metrics-")

from prometheus_client import multiprocess

from demo import parent_process
from tasks.gateway import upstream

# malloc.h's name for how many arenas there may be.
M_ARENA_MAX, ARENAS = -8, 2

bind = f"{settings.HOST}:{settings.PORT}"
workers = settings.WEB_CONCURRENCY
worker_class = "gthread"
threads = settings.THREADS
timeout = 60
graceful_timeout = 10
keepalive = 15
# It would be a file in the home directory, one for all services of a user.
control_socket_disable = True
# Lines and credentials longer than gunicorn's own bound of 8190 reach the API, which says what is wrong with them.
limit_request_line = message.MAX_REQUEST_LINE = 64 * 1024
limit_request_field_size = 128 * 1024
limit_request_fields = 50


def write_json_error(sock: Any, status_int: int, reason: str, mesg: str) -> None:
    """What gunicorn itself refuses is JSON too. `mesg` may quote a header, so it goes nowhere."""
    body = json.dumps({"status": "error", "error": status_int, "message": f"{reason}: this is not a valid request."})
    head = f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin1"))


# There is no hook for it: the worker calls this function of the module.
util.write_error = write_json_error


def hide_headers(record: logging.LogRecord) -> bool:
    """Gunicorn logs a malformed header as it came, and a credential with it."""
    text = record.getMessage()
    if text.startswith("Invalid request from ip="):
        record.msg, record.args = text.split(":", 1)[0], ()
    return True


def share_memory() -> None:
    """With an arena of glibc's own for each thread, what one has freed is not used by the others."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def on_starting(server: Any) -> None:
    share_memory()
    # With `--user` the workers are somebody else.
    os.chown(os.environ["PROMETHEUS_MULTIPROC_DIR"], server.cfg.uid, server.cfg.gid)
    server.log.error_log.addFilter(hide_headers)


def when_ready(server: Any) -> None:
    if settings.STOP_WITH_PARENT:
        parent_process.end_with_parent()


def post_worker_init(worker: Any) -> None:
    from tasks.runs import waiting  # Django is set up only now

    # Made now, and so once, whatever comes first.
    upstream.client()
    upstream.flights()
    # Whoever waits for a run is answered when the worker is told to end.
    waiting.waiting().is_ending = lambda: not worker.alive


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


def worker_exit(server: Any, worker: Any) -> None:
    upstream.finish()
