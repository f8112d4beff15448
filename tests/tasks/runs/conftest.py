"""Several clients that ask at the same moment."""

import threading
from collections.abc import Iterator

import pytest
from django.db import connections
from rest_framework.test import APIClient

from core.schema import document
from tests.cast import Cast, make_key


@pytest.fixture
def crowd(transactional_db: None, cast: Cast) -> Iterator[list[APIClient]]:
    """Eight clients of Alice."""
    document()  # not in several threads at once: drf-spectacular is not thread-safe
    clients = [APIClient(raise_request_exception=False) for _ in range(8)]
    for client in clients:
        client.credentials(HTTP_X_API_KEY=make_key(cast.alice))
    yield clients
    connections.close_all()


def at_once(clients: list[APIClient], path: str) -> list[int]:
    """The statuses of one GET by each client."""
    barrier, statuses = threading.Barrier(len(clients)), list[int]()

    def get(client: APIClient) -> None:
        barrier.wait(10)
        try:
            statuses.append(client.get(path).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=get, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return statuses
