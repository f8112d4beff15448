"""A test client that holds every answer of the API to the schema, without a test having to ask for it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine
from rest_framework.test import APIClient

from tests.contract.validation import check_answer


@contextmanager
def later(**period: float) -> Iterator[None]:
    """So much time has passed: `later(minutes=10)`."""
    with time_machine.travel(datetime.now(UTC) + timedelta(**period)):
        yield


def wait_until(is_so: Callable[[], bool]) -> None:
    """Real time, for what other threads do."""
    pause = threading.Event()
    for _ in range(2000):
        if is_so():
            return
        pause.wait(0.005)
    raise AssertionError("it never came to that")


class ContractClient(APIClient):
    def __init__(self, **defaults: Any) -> None:
        super().__init__(raise_request_exception=False, **defaults)

    def request(self, **request: Any) -> Any:
        response = super().request(**request)
        check_answer(request["REQUEST_METHOD"], request["PATH_INFO"], response)
        return response


def with_key(key: str) -> ContractClient:
    client = ContractClient()
    client.credentials(HTTP_X_API_KEY=key)
    return client
