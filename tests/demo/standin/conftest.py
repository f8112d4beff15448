"""A stand-in for Trigger.dev, with a clock that only the test moves."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from demo.standin.standin import Standin
from demo.standin.state import State

NOW = datetime(2026, 11, 21, 22, 40, tzinfo=UTC)
KEY = "tr_prod_EXAMPLE"
HEADERS = {"Authorization": f"Bearer {KEY}"}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def standin(clock: Clock) -> Iterator[Standin]:
    standin = Standin(State(clock=clock), {KEY: {"id": "cmenvprod0000000000000001", "name": "prod"}})
    yield standin
    standin.state.close()
