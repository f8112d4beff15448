"""HTTP in which a deadline bounds the whole exchange, headers included.

A socket's timeout only sees silence: an answer that trickles in byte by byte would hold its thread for hours.
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
    """Within it, this thread reads no answer past `deadline`, in seconds of `time.monotonic()`."""
    _current.deadline = deadline
    try:
        yield
    finally:
        _current.deadline = None


class BoundedAdapter(HTTPAdapter):
    """For one host and no proxy, so that neither has to be worked out for each request."""

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
    """A socket's file that waits for each piece no longer than the deadline leaves."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline
        self._silence = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer came too slowly")
        self._sock.settimeout(left if self._silence is None else min(left, self._silence))
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
        return in_time(self, super()._new_conn())


class BoundedTLSConnection(HTTPSConnection):
    response_class = BoundedResponse

    def _new_conn(self) -> socket.socket:
        return in_time(self, super()._new_conn())


def in_time(connection: HTTPConnection, made: socket.socket) -> socket.socket:
    """Nothing is sent past the deadline: looking up a name takes its time, and so does each address that is dead."""
    deadline = getattr(_current, "deadline", None)
    if deadline is not None and time.monotonic() >= deadline:
        made.close()
        raise ConnectTimeoutError(connection, "connecting took too long")
    return made


class BoundedPool(HTTPConnectionPool):
    ConnectionCls = BoundedConnection


class BoundedTLSPool(HTTPSConnectionPool):
    ConnectionCls = BoundedTLSConnection
