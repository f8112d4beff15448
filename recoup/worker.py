"""gunicorn's threaded worker, with a thread of its own for /healthz, and without secrets in its error page and log.

gunicorn gives each new connection to a thread, which waits for the request. Here the main thread waits: a connection
costs a thread only once its request has come, and a probe of /healthz never waits for a thread that the API keeps busy.
"""

import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

HIDDEN = "(not shown)"
# A probe is taken for one only when its head is complete: a thread would wait for the rest of it.
PROBE, END_OF_HEAD = b"GET /healthz", b"\r\n\r\n"
MAX_HEAD = 4096


class Worker(ThreadWorker):
    tpool: Any
    poller: Any
    pending_conns: Any

    def init_process(self) -> None:
        self.probes = ThreadPoolExecutor(max_workers=2, thread_name_prefix="healthz")
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        has_read_ahead = conn.initialized and conn.parser.unreader.buf.getvalue()
        start = b"" if has_read_ahead else first_bytes(conn.sock)
        if start is None:
            self.wait_for_request(conn)
            return
        is_probe = start.startswith(PROBE) and END_OF_HEAD in start
        pool = self.probes if is_probe else self.tpool
        future = pool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def wait_for_request(self, conn: Any) -> None:
        """As gunicorn does with a connection that has sent nothing for a while."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + (self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def _cap_keepalive(self, deadline: float) -> None:
        """When the worker stops. A connection that has sent nothing must not hold it up either."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if isinstance(exc, ParseException):
            hide_request(exc)
        super().handle_error(req, client, addr, exc)


def first_bytes(connection: socket.socket) -> bytes | None:
    """What has come of the next request, without taking it; empty at the end, None while nothing has come."""
    try:
        return connection.recv(MAX_HEAD, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # the thread that reads it handles the error


def hide_request(error: ParseException) -> None:
    """The attributes of these exceptions are parts of the request, and their messages repeat them."""
    for name, value in vars(error).items():
        if isinstance(value, str | bytes):
            setattr(error, name, HIDDEN if isinstance(value, str) else HIDDEN.encode())
