"""The stand-in as an HTTP server, for the demo and for tests with real sockets. It listens on this machine only.

Control paths, besides those of Trigger.dev: GET /standin/asked counts the requests by route, and GET /standin/log lists
them with their times. POST and DELETE /standin/faults add and clear faults. POST /standin/runs adds a run.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from demo.standin.faults import Fault
from demo.standin.messages import Reply, Request, error, ok, to_json
from demo.standin.standin import Standin, failed
from demo.standin.state import StandinRun

HOST = "127.0.0.1"


class StandinServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, standin: Standin, *, port: int = 0) -> None:
        """Port 0 chooses a free port. `url` contains the chosen port."""
        self.standin = standin
        self.in_use, self.most_in_use = 0, 0
        self._count_lock = threading.Lock()
        super().__init__((HOST, port), Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    @contextmanager
    def count_connection(self) -> Iterator[None]:
        """Counts a connection as in use from its request to its reply."""
        with self._count_lock:
            self.in_use += 1
            self.most_in_use = max(self.most_in_use, self.in_use)
        try:
            yield
        finally:
            with self._count_lock:
                self.in_use -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors: clients that disconnect early are expected here."""


class Handler(BaseHTTPRequestHandler):
    server: StandinServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def respond(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        request = Request(self.command, self.path, dict(self.headers), self.rfile.read(length))
        if request.path.startswith("/standin/"):
            self.send(handle_control_request(self.server, request))
        else:
            with self.server.count_connection():
                self.answer(self.server.standin, request)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond

    def answer(self, standin: Standin, request: Request) -> None:
        fault = standin.meet(request)
        if fault is None:
            self.send(standin.answer(request))
        elif fault.kind in ("status", "rate_limit", "garbage"):
            self.send(failed(standin, fault))
        elif fault.kind == "delay":
            time.sleep(fault.seconds)
            self.send(standin.answer(request))
        elif fault.kind == "reset":
            standin.answer(request)
            self.reset_connection()
        else:
            time.sleep(fault.seconds)
            if fault.kind == "late":
                standin.answer(request)
            self.reset_connection()

    def send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {**reply.headers, "content-type": reply.content_type}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def reset_connection(self) -> None:
        """Closes the connection with a reset instead of an orderly shutdown."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, to keep the output of the demo readable."""


def handle_control_request(server: StandinServer, request: Request) -> Reply:
    standin = server.standin
    if (request.method, request.path) == ("GET", "/standin/asked"):
        most_in_use, server.most_in_use = server.most_in_use, server.in_use
        return ok({"asked": dict(standin.asked), "faults": standin.faults.as_dicts(), "most_in_use": most_in_use})
    if (request.method, request.path) == ("GET", "/standin/log"):
        return ok([list(entry) for entry in zip(standin.asked_at, standin.log, strict=False)])
    if (request.method, request.path) == ("DELETE", "/standin/faults"):
        standin.faults.clear()
        return ok({})
    try:
        body = json.loads(request.body)
        if (request.method, request.path) == ("POST", "/standin/faults"):
            standin.faults.add(Fault(**body))
            return ok({})
        if (request.method, request.path) == ("POST", "/standin/runs"):
            run = StandinRun(**{"created": standin.state.now, **body})
            return Reply(200, to_json(asdict(standin.state.add_run(run))))
    except (ValueError, TypeError) as reason:
        return error(400, str(reason))
    return error(404, "GET /standin/asked or /standin/log, POST or DELETE /standin/faults, POST /standin/runs")


def serve_in_thread(standin: Standin, *, port: int = 0) -> StandinServer:
    """A running server. Stop it with `shutdown()` and `server_close()`."""
    server = StandinServer(standin, port=port)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server
