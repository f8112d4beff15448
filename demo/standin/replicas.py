"""Read replicas and a list store that lag behind, as a busy Trigger.dev has them. Off unless a test turns it on.

Recorded in feed_*: a new run is listed 0.2 to 1 s after it was inserted, sometimes much later; runs appear in another
order than they were inserted; the filters see older data than the items; a page can be short, or empty, and still have
a next one.
"""

from dataclasses import dataclass, field
from random import Random

from demo.standin.state import StandinRun

COUNT = 2


@dataclass
class Replicas:
    """`drops`: how likely a run of the last two seconds is left out of a page."""

    random: Random
    drops: float = 0.0
    _lags: dict[tuple[str, int], float] = field(default_factory=dict)

    def lag(self, run: StandinRun, replica: int) -> float:
        """Seconds that this replica is behind about this run."""
        if (run.id, replica) not in self._lags:
            kind = self.random.random()
            low, high = (0.2, 1.0) if kind < 0.85 else (1.0, 6.0) if kind < 0.97 else (6.0, 30.0)
            self._lags[run.id, replica] = self.random.uniform(low, high)
        return self._lags[run.id, replica]

    def greatest_lag(self, run: StandinRun) -> float:
        return max(self.lag(run, replica) for replica in range(COUNT))

    def pick(self) -> int:
        """The replica that answers a request."""
        return self.random.randrange(COUNT)

    def shows_newest(self) -> bool:
        """Whether the items of a page are newer than the ids that it was made from."""
        return self.random.random() < 0.5

    def drops_item(self, run: StandinRun, *, now: float) -> bool:
        return now - (run.inserted or 0.0) < 2 and self.random.random() < self.drops
