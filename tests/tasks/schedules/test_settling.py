"""Settling: the plan as a table, and the interleavings that its guards are there for.

An interleaving does something in the middle of a worker's exchange with Trigger.dev: time passes, somebody edits,
another worker settles, this one is killed, or what it sent takes effect after it gave up. At the end time passes, what
is not in sync is settled once more, and Trigger.dev must hold what the row wants. Each is played again with its guard
taken out of the source, and must then end wrong: else the guard, or the test, would be for nothing.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import time_machine
from django.db.models import F
from django.utils import timezone
from pytest_django import Settings

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from tasks.gateway import environment, upstream
from tasks.models import SyncStatus, Task
from tasks.schedules import planning, settling
from tasks.schedules.planning import DesiredSchedule, Step, plan
from tasks.trigger import errors
from tasks.trigger.client import PROBES
from tasks.trigger.types import Schedule
from tests.cast import Cast, make_task

ACTIVE = DesiredSchedule("k", "t", "0 9 * * *", "UTC", "e", active=True, exists=True)
PAUSED = replace(ACTIVE, active=False)
GONE = replace(ACTIVE, exists=False)
SAME = Schedule("sched_x", "t", True, "0 9 * * *", "UTC", "e", "k", is_declarative=False)
STOPPED = replace(SAME, active=False)
OTHER = replace(SAME, cron="1 1 * * *")


@pytest.mark.parametrize(
    ("desired", "schedule", "step"),
    [
        (ACTIVE, None, Step.CREATE),
        (ACTIVE, SAME, Step.NOTHING),
        (ACTIVE, STOPPED, Step.ACTIVATE),
        (ACTIVE, OTHER, Step.REPLACE),
        (ACTIVE, replace(SAME, timezone="Europe/Paris"), Step.REPLACE),
        (ACTIVE, replace(SAME, external_id=None), Step.REPLACE),
        (ACTIVE, replace(OTHER, active=False), Step.RESUME),
        (ACTIVE, replace(OTHER, key=None), Step.ADOPT),
        (ACTIVE, replace(SAME, key=None), Step.NOTHING),
        (PAUSED, None, Step.NOTHING),
        (PAUSED, SAME, Step.DEACTIVATE),
        (PAUSED, STOPPED, Step.NOTHING),
        (PAUSED, OTHER, Step.PAUSE),
        (PAUSED, replace(OTHER, active=False), Step.REPLACE),
        (GONE, None, Step.NOTHING),
        (GONE, SAME, Step.DELETE),
        (GONE, STOPPED, Step.DELETE),
    ],
)
def test_the_plan(desired: DesiredSchedule, schedule: Schedule | None, step: Step) -> None:
    assert plan(desired, schedule) is step


# --- A world in which time passes when we say so ---------------------------------------------------------------------


class Killed(BaseException):
    """SIGKILL: nothing of the worker runs any more."""


def is_probe(request: Request) -> bool:
    """Sent after failures by a thread of its own, which no worker of a play is in."""
    return request.target in PROBES.values()


class World:
    def __init__(
        self, task: Task, trigger: Standin, passing: time_machine.Traveller, module: ModuleType = settling
    ) -> None:
        self.passing = passing
        self.task_id, self.trigger, self.module = task.pk, trigger, module
        self.shifted, self.edits = 0.0, 0
        self.started = timezone.now()

    @property
    def at(self) -> datetime:
        return self.started + timedelta(seconds=self.shifted)

    def clock(self) -> float:
        return time.monotonic() + self.shifted

    def pass_time(self, seconds: float) -> None:
        self.shifted += seconds
        self.passing.shift(seconds)

    def edit(self, **changes: Any) -> None:
        """A write without its attempt to settle."""
        self.edits += 1
        made = changes or {"schedule": f"{self.edits % 60} {self.edits // 60 % 24} * * *"}
        Task.objects.filter(pk=self.task_id).update(**made, generation=F("generation") + 1)

    def settle(self) -> None:
        self.module.settle(self.task_id, at=self.at, clock=self.clock)

    def settle_and_die(self) -> None:
        try:
            self.settle()
        except Killed:
            return

    def once(self, moment: str, method: str, action: Callable[[], None]) -> None:
        """Does something before or after the next request with this method, inside the exchange of who sends it."""

        def hook(request: Request) -> None:
            if request.method == method and not is_probe(request):
                setattr(self.trigger, moment, lambda request: None)
                action()

        setattr(self.trigger, moment, hook)

    def kill(self) -> None:
        raise Killed

    def ends_right(self) -> bool:
        """Once all that was sent is dead, and what is not in sync has been looked at again."""
        self.trigger.before = self.trigger.after = lambda request: None
        self.trigger.faults.clear()
        self.trigger.do_late()
        for _ in range(4):
            self.pass_time(120)
            if Task.objects.get(pk=self.task_id).sync_status != SyncStatus.IN_SYNC:
                self.settle()
                upstream.settle_down()  # after failures it may be tried by a call of its own first
        row = Task.objects.get(pk=self.task_id)
        held = self.trigger.state.schedule(str(row.pk))
        desired = planning.desired_schedule(row)
        if held is None:  # a paused task that never had a schedule gets none
            is_right = not desired.exists or not desired.active
        else:
            is_right = desired.exists and (held.cron, held.active) == (desired.cron, desired.active)
        return is_right and row.sync_status == SyncStatus.IN_SYNC


@pytest.fixture
def task(cast: Cast) -> Task:
    return make_task(cast.alice, cast.artist, synced_generation=0)


@pytest.fixture
def passing() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(timezone.now()) as coordinates:
        yield coordinates


@pytest.fixture
def world(task: Task, trigger: Standin, passing: time_machine.Traveller) -> World:
    return World(task, trigger, passing)


# --- The interleavings -----------------------------------------------------------------------------------------------


def a_reader_stalls_past_its_lease_and_dies(world: World) -> None:
    """It wakes with an older generation in its hand; writing that and dying would leave a row that says in sync."""

    def stall() -> None:
        world.pass_time(61)
        world.edit()
        world.settle()
        world.once("after", "POST", world.kill)

    world.once("after", "GET", stall)
    world.settle_and_die()


def a_worker_is_frozen_between_its_check_and_its_send(world: World) -> None:
    """Its older write arrives after the newer one; that it lost the lease is all it can know of it."""

    def freeze() -> None:
        world.pass_time(70)
        world.edit()
        world.settle()

    world.once("before", "POST", freeze)
    world.settle()


def a_request_takes_effect_after_it_was_given_up(world: World) -> None:
    world.edit()
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    world.settle()
    world.pass_time(5)
    world.edit()
    world.settle()


def another_ones_mark_appears_while_we_work(world: World) -> None:
    """A frozen worker wakes, sends its older write, finds that it lost the lease, and marks the row anew."""
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    claim = world.module.claim_task(world.task_id, at=world.at, clock=world.clock)
    world.pass_time(61)
    world.edit()

    def wake() -> None:
        with pytest.raises(errors.TimedOut):
            world.module.act(claim.task, upstream.client(), next_deadline=lambda: time.monotonic() + 8)
        world.module.finish(claim, definite=False, reason="frozen")

    world.once("after", "GET", wake)
    world.settle()


def an_edit_comes_while_the_former_is_written(world: World) -> None:
    world.once("after", "POST", world.edit)
    world.settle()


def a_create_and_a_delete_race(world: World) -> None:
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    world.settle()
    world.edit(deleted_at=world.at)
    world.settle()


def a_resume_is_given_up_and_followed_by_a_pause(world: World) -> None:
    world.settle()
    world.edit(enabled=False)
    world.settle()
    world.edit(enabled=True)
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    world.settle()
    world.edit(enabled=False)
    world.settle()


def the_second_look_is_itself_refused(world: World) -> None:
    world.settle()
    a_request_takes_effect_after_it_was_given_up(world)
    world.trigger.do_late()
    world.pass_time(90)
    world.trigger.faults.add(Fault("rate_limit"))
    world.settle()


GUARDS = {
    "no call past the lease": ("if now + MAX_CALL > self.started + LEASE.total_seconds():", "if False:"),
    "mark a lost lease": ("again.update(unsettled_until=claim.now + UNSETTLED_FOR)", "pass"),
    "keep a former mark": ("claim.can_restore_mark if reason else claim.was_settled", "True"),
    "a failed look clears nothing": ("claim.can_restore_mark if reason else claim.was_settled", "claim.was_settled"),
    "clear only our own mark": ("mine.filter(unsettled_until=claim.unsettled_until)", "mine"),
    "the generation that was read": (
        '"synced_generation": claim.task.generation',
        '"synced_generation": F("generation")',
    ),
    "no answer is not definite": ("definite=isinstance(error, NotOurEnvironment)", "definite=True"),
}
INTERLEAVINGS: dict[Callable[[World], None], str] = {
    a_reader_stalls_past_its_lease_and_dies: "no call past the lease",
    a_worker_is_frozen_between_its_check_and_its_send: "mark a lost lease",
    a_request_takes_effect_after_it_was_given_up: "keep a former mark",
    another_ones_mark_appears_while_we_work: "clear only our own mark",
    an_edit_comes_while_the_former_is_written: "the generation that was read",
    a_create_and_a_delete_race: "no answer is not definite",
    a_resume_is_given_up_and_followed_by_a_pause: "keep a former mark",
    the_second_look_is_itself_refused: "a failed look clears nothing",
}


@pytest.mark.parametrize("interleaving", INTERLEAVINGS, ids=lambda play: play.__name__)
def test_it_ends_right(world: World, interleaving: Callable[[World], None]) -> None:
    interleaving(world)
    assert world.ends_right()


@pytest.mark.parametrize("interleaving", INTERLEAVINGS, ids=lambda play: play.__name__)
def test_without_its_guard_it_ends_wrong(
    task: Task, trigger: Standin, passing: time_machine.Traveller, interleaving: Callable[[World], None]
) -> None:
    for module in without_guard(INTERLEAVINGS[interleaving]):
        world = World(task, trigger, passing, module)
        interleaving(world)
        assert not world.ends_right()


def without_guard(name: str) -> Iterator[ModuleType]:
    """`tasks.settling` with one guard taken out of its source."""
    guard, nothing = GUARDS[name]
    source = Path(str(settling.__file__)).read_text()
    assert source.count(guard) == 1, f"the guard {name!r} is written differently now"
    module = ModuleType("settling_without_a_guard")
    sys.modules[module.__name__] = module
    code = "from django.db.models import F\n" + source.replace(guard, nothing)
    exec(compile(code, "settling_without_a_guard", "exec"), module.__dict__)  # noqa: S102  our own source
    yield module
    del sys.modules[module.__name__]


class Chaos:
    """Writers and workers in each other's way, by chance.

    A worker frozen between check and send is not killed as well: that is what the protocol cannot close.
    """

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.chance = world, chance
        self.depth, self.has_frozen = 0, False

    def play(self) -> None:
        for _ in range(self.chance.randint(2, 6)):
            self.has_frozen = False
            self.world.trigger.before, self.world.trigger.after = self.before, self.after
            kind: Any = self.chance.choice(["late", "late", "reset", "status", "hang", "garbage"])
            method = self.chance.choice(["GET", "POST", "DELETE", "*"])
            self.world.trigger.faults.add(Fault(kind, method=method, times=1))
            write(self.world, self.chance)
            self.world.settle_and_die()
            if self.chance.random() < 0.5:
                self.world.trigger.do_late()
            self.world.pass_time(self.chance.choice([0, 1, 20, 40]))

    def before(self, request: Request) -> None:
        if not is_probe(request) and self.chance.random() < 0.2:
            self.has_frozen = True
            self.meanwhile()

    def after(self, request: Request) -> None:
        if is_probe(request):
            return
        self.meanwhile()
        if self.chance.random() < 0.1 and not self.has_frozen:
            raise Killed

    def meanwhile(self) -> None:
        if self.depth > 2:
            return
        self.depth += 1
        self.world.pass_time(self.chance.choice([0, 0, 0.1, 5, 31, 61]))
        if self.chance.random() < 0.4:
            write(self.world, self.chance)
        if self.chance.random() < 0.4:
            self.world.settle_and_die()
        self.depth -= 1


def write(world: World, chance: random.Random) -> None:
    kind = chance.random()
    if kind < 0.1:
        world.edit(deleted_at=world.at)
    elif kind < 0.4:
        world.edit(enabled=chance.choice([True, False, None]))
    else:
        world.edit()


def check_random_rounds(cast: Cast, trigger: Standin, passing: time_machine.Traveller, seeds: range) -> None:
    for seed in seeds:
        world = World(make_task(cast.alice, cast.artist, synced_generation=0), trigger, passing)
        Chaos(world, random.Random(seed)).play()
        assert world.ends_right(), f"seed {seed}"


def test_random_interleavings_end_right(cast: Cast, trigger: Standin, passing: time_machine.Traveller) -> None:
    trigger.rate_limit = 0
    check_random_rounds(cast, trigger, passing, range(60))


@pytest.mark.slow
def test_500_random_interleavings_end_right(cast: Cast, trigger: Standin, passing: time_machine.Traveller) -> None:
    trigger.rate_limit = 0
    check_random_rounds(cast, trigger, passing, range(1000, 1500))


# --- Whose schedules -------------------------------------------------------------------------------------------------


def test_another_key_or_namespace_is_refused_until_it_is_accepted(
    world: World, trigger: Standin, settings: Settings
) -> None:
    world.settle()
    settings.TRIGGER_NAMESPACE = "staging-"
    world.edit()
    asked = trigger.asked["all"]
    world.settle()
    row = Task.objects.get()
    assert (row.sync_status, trigger.asked["all"]) == (SyncStatus.PENDING, asked)
    assert "accept_trigger_environment" in row.sync_error
    environment.accept_environment(at=world.at)
    world.settle()
    assert Task.objects.get().sync_status == SyncStatus.IN_SYNC
    assert trigger.state.schedule(f"staging-{row.pk}") is None, "the schedule is known by its id, and stays"


def test_a_key_that_is_not_productions_needs_a_namespace(world: World, trigger: Standin, settings: Settings) -> None:
    settings.TRIGGER_SECRET_KEY = "tr_dev_x"
    world.settle()
    assert trigger.asked["all"] == 0
    assert "TRIGGER_NAMESPACE must be set" in Task.objects.get().sync_error


def test_a_schedule_that_is_another_tasks_leaves_this_one_pending(cast: Cast, world: World) -> None:
    world.settle()
    taken = Task.objects.get().trigger_schedule_id
    Task.objects.update(trigger_schedule_id=None)
    make_task(cast.alice, cast.artist, trigger_schedule_id=taken)
    world.edit()
    world.settle()
    row = Task.objects.get(pk=world.task_id)
    assert (row.sync_status, row.lease_token) == (SyncStatus.PENDING, None)
    assert "already belongs to another task" in row.sync_error


def test_a_schedule_of_the_former_service_is_adopted(cast: Cast, trigger: Standin) -> None:
    """It has no key of ours; it is written by its id, and neither it nor its history is lost."""
    made = trigger.answer(
        Request(
            "PUT",
            "/api/v1/schedules/sched_none",
            {"Authorization": "Bearer tr_prod_tests"},
            b'{"task": "customer-prompt-task", "cron": "1 1 * * *"}',
        )
    )
    (adopted,) = trigger.state.schedules()
    assert made.status == 200
    task = make_task(cast.alice, cast.artist, trigger_schedule_id=adopted.id, synced_generation=0)
    settling.settle(task.pk, at=timezone.now())
    (now,) = trigger.state.schedules()
    assert (now.id, now.cron, now.external_id, now.key) == (adopted.id, task.schedule, str(task.pk), None)
