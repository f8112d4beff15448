"""HTTP with a deadline for the whole exchange, headers included.

A socket timeout only limits each wait: an answer that arrives byte by byte would hold its thread for hours. requests
has no total timeout, so the reader below checks the deadline before each read.
"""

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError

_current = threading.local()


@contextmanager
def bounded_by(deadline: float) -> Iterator[None]:
    """Within it, this thread reads no answer after `deadline`, in seconds of `time.monotonic()`."""
    _current.deadline = deadline
    try:
        yield
    finally:
        _current.deadline = None


class BoundedAdapter(HTTPAdapter):
    """For one host without a proxy, so neither is computed for each request."""

    _pool: Any = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        return str(request.path_url)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": BoundedPool, "https": BoundedTLSPool}


class BoundedReader(io.RawIOBase):
    """A socket's file that waits for each read until the deadline at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline
        self._socket_timeout = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer arrived too slowly")
        self._sock.settimeout(left if self._socket_timeout is None else min(left, self._socket_timeout))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class BoundedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        deadline = getattr(_current, "deadline", None)
        if deadline is not None:
            self.fp = io.BufferedReader(BoundedReader(self.fp.detach(), sock, deadline))


class BoundedConnection(HTTPConnection):
    response_class = BoundedResponse

    def _new_conn(self) -> socket.socket:
        return within_deadline(self, super()._new_conn())


class BoundedTLSConnection(HTTPSConnection):
    response_class = BoundedResponse

    def _new_conn(self) -> socket.socket:
        return within_deadline(self, super()._new_conn())


def within_deadline(connection: HTTPConnection, made: socket.socket) -> socket.socket:
    """Nothing is sent after the deadline: a DNS lookup and each dead address take their time."""
    deadline = getattr(_current, "deadline", None)
    if deadline is not None and time.monotonic() >= deadline:
        made.close()
        raise ConnectTimeoutError(connection, "connecting took too long")
    return made


class BoundedPool(HTTPConnectionPool):
    ConnectionCls = BoundedConnection


class BoundedTLSPool(HTTPSConnectionPool):
    ConnectionCls = BoundedTLSConnection
