"""How many calls polling makes in a minute, counted by the stand-in, beside what the model needs for the same.

Time is moved by the test, half a second at a time. Trigger.dev answers at once. The figures of the model are averages
of calls a minute (shared/DUE_MODEL.md); ours have the lists of newest runs and of accounts on top, where lists of runs
are watched.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Account
from demo.standin import schedules
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinRun, StandinSchedule
from tasks.cron import calendar
from tasks.gateway.quota import count_call
from tasks.models import RunFeed, Task
from tasks.runs import reading, task_polls
from tasks.runs.due import RunsStatus
from tasks.runs.feeds import FeedPoller
from tasks.runs.polling import shared_poll_as_of
from tasks.runs.shared import NewestPoller, SharedPoller
from tasks.runs.steps import step
from tasks.runs.task_polls import TaskPoller
from tasks.trigger.client import TriggerClient, route_of
from tasks.trigger.responses import read_answer
from tests.cast import Cast
from tests.conftest import TRIGGER_KEY, TRIGGER_URL

BEGIN = datetime(2026, 11, 24, 8, 55, tzinfo=UTC)
STEP = 0.5


class DirectClient(TriggerClient):
    """Calls the stand-in without HTTP, within the quota."""

    def __init__(self, trigger: Standin) -> None:
        super().__init__(TRIGGER_URL, TRIGGER_KEY)
        self.trigger, self.minutes = trigger, Counter[int]()

    def _exchange(self, prepared: Any, *, deadline: float) -> Any:
        count_call("scenario", route_of(prepared.path_url))
        request = Request(prepared.method, prepared.path_url, dict(prepared.headers), b"")
        self.minutes[int((timezone.now() - BEGIN).total_seconds() // 60)] += 1
        reply = self.trigger.answer(request)
        response: Any = SimpleNamespace(status_code=reply.status, headers=reply.headers)
        return read_answer(response, reply.body)


@dataclass(frozen=True)
class Scenario:
    """`at_nine`: how many of the tasks fire at 9:00, five minutes from the begin. `model`: calls a minute, average."""

    name: str
    tasks: int
    minutes: int
    model: float
    at_nine: int = 0
    watched: int = 0
    accounts: int = 1
    with_run_lists: bool = False
    seconds: tuple[float, float] = (30, 300)

    @property
    def bound(self) -> float:
        """The model's figure and a third, and what lists of runs cost: one list every four seconds, and their own."""
        lists = 60 / 4 + self.accounts * 1.4 if self.with_run_lists else 0
        return 1.35 * self.model + 2 + lists


SCENARIOS = [
    Scenario("idle: 200 daily, nobody watches", 200, 30, model=1),
    Scenario("200 daily, 20 watching clients", 200, 30, model=12, watched=200, accounts=20, with_run_lists=True),
    Scenario(
        "100 accounts x 50 daily, both lists watched", 5000, 10, 37, watched=5000, accounts=100, with_run_lists=True
    ),
    Scenario("200 watched unfinished runs", 200, 20, 89, at_nine=200, watched=200, seconds=(3000, 3600)),
    Scenario("10,000 daily, 5,000 at 9:00, 200 watched", 10_000, 25, 265, at_nine=5000, watched=200),
]


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(BEGIN, tick=False) as traveller:
        yield traveller


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_calls_of_a_scenario(
    cast: Cast,
    trigger: Standin,
    clock: time_machine.Traveller,
    settings: Settings,
    record_property: Any,
    scenario: Scenario,
) -> None:
    rng, client = random.Random(1), DirectClient(trigger)
    trigger.rate_limit = 0
    settings.WEB_CONCURRENCY = 1
    watched = make_tasks(scenario, cast, trigger, rng)
    calls = (client, timezone.now, lambda: time.monotonic() + 100)
    shared, newest = SharedPoller(*calls), NewestPoller(*calls)
    feeds, tasks = FeedPoller(*calls), TaskPoller(*calls)
    statuses = Counter[tuple[int, RunsStatus]]()
    for number in range(int(scenario.minutes * 60 / STEP)):
        fire(trigger, scenario, rng)
        if number % 4 == 0 and watched:
            read(watched, statuses, minute=int(number * STEP // 60))
        shared.poll()
        newest.poll()
        for poller in (feeds, tasks):
            step(poller)
        clock.shift(STEP)
    minutes = [client.minutes[minute] for minute in range(scenario.minutes)]
    average = sum(minutes) / scenario.minutes
    fresh = {
        minute: round(100 * statuses[minute, RunsStatus.FRESH] / sum(statuses[minute, status] for status in RunsStatus))
        for minute in range(scenario.minutes)
        if watched
    }
    record_property(
        "summary",
        f"{scenario.name}: {average:.1f} calls a minute, at most {max(minutes)}; the model {scenario.model:g}. "
        f"Percent fresh by minute: {' '.join(map(str, fresh.values())) or '-'}",
    )
    assert average <= scenario.bound
    if scenario.at_nine == 0:
        assert set(fresh.values()) <= {100}, "nothing is stale outside fires, nor while they are followed"


def make_tasks(scenario: Scenario, cast: Cast, trigger: Standin, rng: random.Random) -> list[UUID]:
    """All were polled a minute ago. The watched ones."""
    owners = [Account(name=f"Owner {number}") for number in range(scenario.accounts)]
    Account.objects.bulk_create(owners)
    rows = []
    for number in range(scenario.tasks):
        minute = 540 if number < scenario.at_nine else rng.randrange(1440)
        cron = f"{minute % 60} {minute // 60} * * *"
        created = BEGIN - timedelta(days=9)
        periods = calendar.confirm(calendar.change([], cron, "UTC", at=created), at=created)
        task = Task(
            title="t",
            prompt="p",
            schedule=cron,
            account=owners[number % len(owners)],
            artist_account=cast.artist,
            synced_generation=1,
            created_at=created,
            schedule_changed_at=created,
            fire_periods=calendar.to_json(periods),
        )
        task.trigger_schedule_id = f"sched_{task.pk.hex[:21]}"
        for name, value in task_polls.initial_plan(task, at=BEGIN - timedelta(minutes=1)).items():
            setattr(task, name, value)
        task.deep_polled_at = BEGIN - timedelta(hours=rng.uniform(0, 4))
        if number < scenario.watched or scenario.watched == scenario.tasks:
            task.watched_until = BEGIN + timedelta(days=1)
            task.next_poll_at = task.watched_poll_at
        rows.append(task)
        schedule = StandinSchedule("customer-prompt-task", cron, created.timestamp(), id=task.trigger_schedule_id)
        schedule.external_id, schedule.key = str(task.pk), str(task.pk)
        schedule.next_fire = schedules.next_fire(schedule, now=BEGIN.timestamp())
        trigger.state.put_schedule(schedule)
    Task.objects.bulk_create(rows, batch_size=500)
    if scenario.with_run_lists:
        until = BEGIN + timedelta(days=1)
        RunFeed.objects.bulk_create(
            RunFeed(account_id=owner.pk, next_poll_at=BEGIN, watched_until=until) for owner in owners
        )
    return [task.pk for task in rows if task.watched_until]


def fire(trigger: Standin, scenario: Scenario, rng: random.Random) -> None:
    if not schedules.fire_due(trigger.state):
        return
    runs: list[StandinRun] = list(
        trigger.state.newest_runs(schedule_ids=[], tags=[], since=(timezone.now() - timedelta(minutes=1)).timestamp())
    )
    for run in runs:
        if run.ends_after == 10.0:
            trigger.state.remove_run(run.id)
            run.ends_after = rng.uniform(*scenario.seconds)
            trigger.state.add_run(run)


def read(watched: list[UUID], statuses: Counter[tuple[int, RunsStatus]], *, minute: int) -> None:
    shared_as_of, now = shared_poll_as_of(), timezone.now()
    columns = ("id", "polled_at", "quiet_until", "unfinished_stored_at", "trigger_schedule_id", "run_by_hand_at")
    for task in Task.objects.filter(watched_until__gt=now).only(*columns):
        statuses[minute, reading.status_of(task, shared_as_of=shared_as_of, now=now)[0]] += 1
