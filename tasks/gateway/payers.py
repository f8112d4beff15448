"""Whose share a call to Trigger.dev comes out of: said by whoever asks, and taken along into the thread that calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

Answer = TypeVar("Answer")


@dataclass(eq=False)
class Lookup:
    """One look for a run that may not be there. `calls`: how many were sent for it; who joins another's sends none."""

    calls: int = 0


@dataclass(frozen=True)
class Payer:
    """Whose share a call comes out of; with a `lookup` another purse. `is_poll`: it is for a request that waits."""

    name: str
    lookup: Lookup | None = field(default=None, compare=False)
    is_poll: bool = False


payer: ContextVar[Payer | None] = ContextVar("payer", default=None)


@contextmanager
def paid_by(name: str) -> Iterator[None]:
    """Within it calls come out of this payer's share."""
    token = payer.set(Payer(name))
    try:
        yield
    finally:
        payer.reset(token)


def in_the_name_of(who: Payer | None, call: Callable[[], Answer]) -> Callable[[], Answer]:
    """The call as another thread makes it: paid by whoever asked."""

    def paid() -> Answer:
        token = payer.set(who)
        try:
            return call()
        finally:
            payer.reset(token)

    return paid
