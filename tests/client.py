"""A test client that validates every API response against the OpenAPI schema."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine
from rest_framework.test import APIClient

from tests.contract.validation import check_response


@contextmanager
def later(**period: float) -> Iterator[None]:
    """Moves the clock forward, for example `later(minutes=10)`."""
    with time_machine.travel(datetime.now(UTC) + timedelta(**period)):
        yield


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits in real time, at most ten seconds, until another thread makes the condition true."""
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("the condition did not become true within 10 seconds")


class ContractClient(APIClient):
    def __init__(self, **defaults: Any) -> None:
        super().__init__(raise_request_exception=False, **defaults)

    def request(self, **request: Any) -> Any:
        response = super().request(**request)
        check_response(request["REQUEST_METHOD"], request["PATH_INFO"], response)
        return response


def with_key(key: str) -> ContractClient:
    """A client that sends this API key."""
    client = ContractClient()
    client.credentials(HTTP_X_API_KEY=key)
    return client
