"""One quota with lanes: polls stop first, then lookups of single runs, and writes last."""

import time_machine
from pytest_django import Settings

from demo.standin.standin import Standin
from tests.trigger_calls import call_trigger


def count_sent(name: str) -> int:
    """How many calls of this kind are sent until one is not."""
    sent = 0
    while call_trigger(name) != "NotSent":
        sent += 1
    return sent


def test_each_lane_leaves_something_for_the_next(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 100, 1
    sent = [count_sent(name) for name in ("list_runs", "retrieve_run", "retrieve_schedule")]
    assert sent == [60, 20, 20]
    assert trigger.asked["all"] == 100
    clock.shift(90)
    assert count_sent("list_runs") == 10, "half of the former minute still counts"


def test_without_redis_each_worker_has_its_part(
    trigger: Standin, clock: time_machine.Traveller, settings: Settings
) -> None:
    settings.TRIGGER_CALLS_PER_MINUTE, settings.WEB_CONCURRENCY = 100, 2
    assert (count_sent("list_runs"), count_sent("retrieve_schedule")) == (30, 20)
