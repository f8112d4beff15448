"""How many calls may be made in a minute, and who may cause them: never more than the budget, nobody more than a share.

Looking for a run that may not be there comes out of another purse beside it, since it may cost nothing of the budget,
and only its answer tells whether it was in vain. What was found is then paid like everything else.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from django.conf import settings

from core import rate_limits
from core.rate_limits import Exceeded, Limit
from tasks.trigger import errors

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


# Of the budget: the others must find something left.
SHARE = 0.5
# Of a share, for those who wait for runs.
POLLS_PART = 0.5
# Calls a minute for what one payer looks for in vain; those for all lookups together are as many as this part of the
# budget.
LOOKUPS_PER_MINUTE = 100
LOOKUPS_PART = 0.25
# Of all lookups: however many workers share them, the others must find something left here too.
VAIN_PART = 0.8


@dataclass(frozen=True)
class Budget:
    """Of one Trigger.dev environment, for all processes where Redis is there; else divided by the workers."""

    environment: str

    def pay(self, who: Payer | None) -> None:
        """For one call, right before it is sent. Raises QuotaExceeded or NotSent."""
        lookup = who.lookup if who is not None else None
        limits = self._limits_of(who) if who is None or lookup is None else self._lookups_of(who)
        refuse_when(rate_limits.take(*limits, at=time.time()))
        if lookup is not None:
            lookup.calls += 1

    def permit_lookup(self, who: Payer) -> None:
        """Raises QuotaExceeded or NotSent, whatever is looked for, since nobody knows yet what it will cost."""
        refuse_when(rate_limits.check(*self._lookups_of(who), *self._limits_of(who), at=time.time()))

    def note_found(self, who: Payer, lookup: Lookup) -> None:
        """It was not in vain, so that its calls come out of share and budget instead."""
        amounts = dict.fromkeys(self._lookups_of(who), -lookup.calls)
        amounts |= dict.fromkeys(self._limits_of(who), lookup.calls)
        if lookup.calls:
            rate_limits.add(amounts, at=time.time())

    def _limits_of(self, who: Payer | None) -> list[Limit]:
        budget = self._limit("budget", 1.0)
        if who is None:
            return [budget]
        share = self._limit(f"share:{who.name}", SHARE)
        return [self._limit(f"polls:{who.name}", SHARE * POLLS_PART), share, budget] if who.is_poll else [share, budget]

    def _lookups_of(self, who: Payer) -> list[Limit]:
        vain = self._limit(f"vain:{who.name}", LOOKUPS_PART * VAIN_PART, at_most=LOOKUPS_PER_MINUTE)
        return [vain, self._limit("lookups", LOOKUPS_PART)]

    def _limit(self, name: str, part: float, *, at_most: int | None = None) -> Limit:
        most = settings.TRIGGER_CALLS_PER_MINUTE
        counts = [max(1, int(calls * part)) for calls in (most, max(1, most // settings.WEB_CONCURRENCY))]
        of_all, alone = (count if at_most is None else min(count, at_most) for count in counts)
        return Limit(f"{name}:{self.environment}", of_all, alone)


def refuse_when(spent: Exceeded | None) -> None:
    if spent is None:
        return
    name, _, _ = spent.limit.name.partition(":")
    error, detail = {
        "share": (errors.QuotaExceeded, "this minute's share of its calls is spent"),
        "vain": (errors.QuotaExceeded, f"runs were looked for in vain {spent.limit.maximum} times within a minute"),
    }.get(name, (errors.NotSent, "all that it may be asked within a minute is spent"))
    raise error(detail, retry_after=spent.seconds, reason=name)
