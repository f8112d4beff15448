"""Looking for runs that may not be there, or not for who looks: what that costs, and whom, only its answer tells.

A payer may look in vain so often in a minute, and that costs nothing of the budget; what is found does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from tasks import upstream
from tasks.payers import Payer, payer

Answer = TypeVar("Answer")


class Lookup:
    """A question for what may not be there at all: what it costs, and whom, is known only by its answer."""

    def __init__(self, who: Payer | None) -> None:
        self._who, self._calls = who, 0

    def counted(self, fetch: Callable[..., Answer]) -> Callable[..., Answer]:
        """Whoever joins a question that is under way has not made a call."""

        def fetched(**arguments: Any) -> Answer:
            self._calls += 1
            return fetch(**arguments)

        return fetched

    def was_found(self) -> None:
        if self._who is not None:
            upstream.manners().note_found(self._who, calls=self._calls)

    def was_in_vain(self) -> None:
        if self._who is not None:
            upstream.manners().note_vain(self._who)


@contextmanager
def looking_up() -> Iterator[Lookup]:
    """Raises ShareSpent or NotAsked where the payer has looked too often, whatever it looks for now."""
    who = payer.get()
    if who is not None:
        upstream.manners().refuse_lookup(who)
    token = payer.set(replace(who, is_lookup=True) if who else None)
    try:
        yield Lookup(who)
    finally:
        payer.reset(token)
