"""Whose share a call to Trigger.dev comes out of: said by whoever asks, and taken along into the thread that calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Payer:
    """Whose share a call comes out of. A lookup, of a run that the payer may not have, comes out of another purse.

    A poll is for a request that waits: for those only a part of the share is there.
    """

    name: str
    is_lookup: bool = False
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
