"""Two copies of a database, with two namespaces, at one Trigger.dev: neither ever touches a schedule of the other.

A copy is played by loading its rows before it acts, and keeping them afterwards.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import time_machine
from django.utils import timezone
from pytest_django import Settings

from demo.standin.standin import Standin
from tasks import writes
from tasks.gateway import environment, upstream
from tasks.models import SyncStatus, Task, TriggerBinding
from tasks.schedules.pacing import Pace
from tasks.schedules.reconciliation import run_pass
from tasks.schedules.report import Options, Progress
from tasks.schedules.settling import settle_pending
from tests.cast import TESTER, Cast

PLAYS, STEPS = int(os.environ.get("COPY_PLAYS", "5")), 25
NAMESPACES = [("", "staging-"), ("live-", "staging-"), ("live-", ""), ("a", "aa")]
CRONS = ["0 9 * * *", "30 9 * * 1-5", "*/15 * * * *", "0 0 1 * *"]


@dataclass
class Copy:
    namespace: str
    tasks: list[dict[str, Any]] = field(default_factory=list)
    bindings: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def acting(self, settings: Settings) -> Iterator[None]:
        settings.TRIGGER_NAMESPACE = self.namespace
        Task.objects.all().delete()
        TriggerBinding.objects.all().delete()
        Task.objects.bulk_create([Task(**values) for values in self.tasks])
        TriggerBinding.objects.bulk_create([TriggerBinding(**values) for values in self.bindings])
        yield
        self.keep()

    def keep(self) -> None:
        self.tasks = [without_generated(values) for values in Task.objects.values()]
        self.bindings = [dict(values) for values in TriggerBinding.objects.values()]


def without_generated(values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "is_settled"}


@dataclass
class Play:
    copies: tuple[Copy, Copy]
    cast: Cast
    trigger: Standin
    settings: Settings
    clock: time_machine.Traveller
    random: random.Random

    def held(self, copy: Copy) -> list[Any]:
        """The schedules of a copy at Trigger.dev."""
        keys = {f"{copy.namespace}{values['id']}" for values in [*self.copies[0].tasks, *self.copies[1].tasks]}
        found = (asdict(schedule) for schedule in self.trigger.state.schedules())
        return sorted((one for one in found if one["key"] in keys), key=lambda one: str(one["id"]))

    def step(self) -> None:
        copy, other = self.random.sample(self.copies, 2)
        before = self.held(other)
        actions: list[Callable[[], object]] = [self.create, self.edit, self.edit, self.pause, self.delete]
        action = self.random.choice([*actions, self.accept, settle_pending, self.sync])
        with copy.acting(self.settings):
            action()
        self.clock.shift(self.random.choice([1, 5, 70]))
        assert self.held(other) == before, f"{copy.namespace!r} has changed a schedule of {other.namespace!r}: {action}"

    def any_task(self) -> Task | None:
        found = list(Task.objects.living().order_by("pk"))
        return self.random.choice(found) if found else None

    def create(self) -> None:
        people = {"account_id": self.cast.alice.pk, "artist_account_id": self.cast.artist.pk}
        fields = {"title": "t", "prompt": "p", "schedule": self.random.choice(CRONS), **people}
        writes.create_task(fields, actor=TESTER, at=timezone.now())

    def edit(self) -> None:
        if task := self.any_task():
            writes.update_task(task, {"schedule": self.random.choice(CRONS)}, actor=TESTER, at=timezone.now())

    def pause(self) -> None:
        if task := self.any_task():
            writes.update_task(task, {"enabled": not task.is_enabled}, actor=TESTER, at=timezone.now())

    def delete(self) -> None:
        if task := self.any_task():
            writes.delete_task(task, actor=TESTER, at=timezone.now())

    def accept(self) -> None:
        environment.accept_environment(at=timezone.now())

    def sync(self) -> None:
        pace = Pace(upstream.client(), now=timezone.now, wait=lambda seconds, why: self.clock.shift(seconds))
        with suppress(environment.NotOurEnvironment):
            run_pass(Options(full=True, prune=True, yes=True), pace=pace, progress=Progress())


@pytest.mark.parametrize("namespaces", NAMESPACES, ids="-".join)
@pytest.mark.parametrize("seed", range(PLAYS))
def test_neither_copy_touches_the_schedules_of_the_other(
    cast: Cast, trigger: Standin, settings: Settings, seed: int, namespaces: tuple[str, str]
) -> None:
    with time_machine.travel("2026-11-24T12:00:00+00:00", tick=False) as clock:
        first, second = (Copy(namespace) for namespace in namespaces)
        play = Play((first, second), cast, trigger, settings, clock, random.Random(seed))
        with first.acting(settings):
            for _ in range(3):
                play.create()
        # The copy is made now: its rows name the schedules of the original.
        second.tasks, second.bindings = [dict(values) for values in first.tasks], [*first.bindings]
        for _ in range(STEPS):
            play.step()
        for copy in (first, second):
            with copy.acting(settings):
                play.accept()
                clock.shift(90)
                play.sync()
                living = Task.objects.living()
                assert {task.sync_status for task in living} <= {SyncStatus.IN_SYNC}
                active = {schedule["key"] for schedule in play.held(copy) if schedule["active"]}
                assert active == {f"{copy.namespace}{task.pk}" for task in living if task.is_enabled}
