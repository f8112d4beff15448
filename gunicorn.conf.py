"""How gunicorn serves the API: `gunicorn recoup.wsgi`. README.md lists the environment variables."""

import json
import os
import signal
import sys
import threading
from typing import Any

from gunicorn import util
from gunicorn.http import message

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "gthread"
threads = int(os.environ.get("THREADS", "32"))
timeout = 60
graceful_timeout = 10
keepalive = 15
# Lines longer than gunicorn's own bound of 8190 reach the API, which says which parameter is too long.
limit_request_line = message.MAX_REQUEST_LINE = 64 * 1024
# So does a credential of 100 kB.
limit_request_field_size = 128 * 1024
limit_request_fields = 50


def write_json_error(sock: Any, status_int: int, reason: str, mesg: str) -> None:
    """What gunicorn itself refuses (a malformed request, a header of 8 kB) is JSON too."""
    body = json.dumps({"status": "error", "error": status_int, "message": f"{reason}. {mesg}".strip()})
    head = f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin1"))


# There is no hook for it: the worker calls this function of the module.
util.write_error = write_json_error


def when_ready(server: Any) -> None:
    """In the demo, ends with the parent, whatever ended that: its end of the pipe closes."""
    if os.environ.get("STOP_WITH_PARENT"):
        threading.Thread(target=_stop_with_parent, daemon=True).start()


def _stop_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def worker_exit(server: Any, worker: Any) -> None:
    from tasks import upstream

    upstream.finish()
