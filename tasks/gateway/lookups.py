"""Looking for runs that may not be there, or not for who looks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tasks.gateway import upstream
from tasks.gateway.budget import Lookup, payer


@contextmanager
def looking_up() -> Iterator[None]:
    """Within it is asked for a run; whatever is raised, it was looked for in vain.

    Raises QuotaExceeded or NotSent where the payer has looked too often, whatever it looks for now.
    """
    who = payer.get()
    if who is None:
        yield
        return
    budget, lookup = upstream.gate().budget, Lookup()
    budget.permit_lookup(who)
    token = payer.set(replace(who, lookup=lookup))
    try:
        yield
    finally:
        payer.reset(token)
    budget.note_found(who, lookup)
