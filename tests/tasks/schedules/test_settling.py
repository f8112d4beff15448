"""Settling: the plan as a table, and the interleavings that the guards in the code protect against.

An interleaving interrupts a worker's exchange with Trigger.dev: time passes, the task is edited, another worker settles
it, the worker is killed, or a request takes effect after its timeout. Afterwards time passes, a task that is not in
sync is settled again, and the schedule at Trigger.dev must match the row. Each interleaving also runs with its guard
removed from the source, and must then end in the wrong state. This proves that the guard and the test are needed.
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
from tasks import writes
from tasks.gateway import environment, upstream
from tasks.models import SyncStatus, Task
from tasks.schedules import planning, settling
from tasks.schedules.planning import DesiredSchedule, Step, plan
from tasks.trigger import errors
from tasks.trigger.client import PROBES
from tasks.trigger.types import Schedule
from tests.cast import TESTER, Cast, make_task

ACTIVE = DesiredSchedule("k", "t", "0 9 * * *", "UTC", "e", active=True, exists=True)
PAUSED = replace(ACTIVE, active=False)
DELETED = replace(ACTIVE, exists=False)
EQUAL = Schedule("sched_x", "t", True, "0 9 * * *", "UTC", "e", "k", is_declarative=False)
INACTIVE = replace(EQUAL, active=False)
DIFFERENT = replace(EQUAL, cron="1 1 * * *")


@pytest.mark.parametrize(
    ("desired", "schedule", "step"),
    [
        (ACTIVE, None, Step.CREATE),
        (ACTIVE, EQUAL, Step.NOTHING),
        (ACTIVE, INACTIVE, Step.ACTIVATE),
        (ACTIVE, DIFFERENT, Step.REPLACE),
        (ACTIVE, replace(EQUAL, timezone="Europe/Paris"), Step.REPLACE),
        (ACTIVE, replace(EQUAL, external_id=None), Step.REPLACE),
        (ACTIVE, replace(DIFFERENT, active=False), Step.RESUME),
        (ACTIVE, replace(DIFFERENT, key=None), Step.ADOPT),
        (ACTIVE, replace(EQUAL, key=None), Step.NOTHING),
        (PAUSED, None, Step.NOTHING),
        (PAUSED, EQUAL, Step.DEACTIVATE),
        (PAUSED, INACTIVE, Step.NOTHING),
        (PAUSED, DIFFERENT, Step.PAUSE),
        (PAUSED, replace(DIFFERENT, active=False), Step.REPLACE),
        (DELETED, None, Step.NOTHING),
        (DELETED, EQUAL, Step.DELETE),
        (DELETED, INACTIVE, Step.DELETE),
    ],
)
def test_plan_chooses_the_step_for_each_desired_and_actual_schedule(
    desired: DesiredSchedule, schedule: Schedule | None, step: Step
) -> None:
    assert plan(desired, schedule) is step


# --- One task, Trigger.dev and a clock that the test moves -----------------------------------------------------------


class Killed(BaseException):
    """Simulates SIGKILL: no more code of the worker runs."""


def is_probe(request: Request) -> bool:
    """A probe of the circuit breaker. A background thread sends it, so it is not part of an interleaving."""
    return request.target in PROBES.values()


class World:
    def __init__(
        self, task: Task, trigger: Standin, traveller: time_machine.Traveller, module: ModuleType = settling
    ) -> None:
        self.traveller = traveller
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
        self.traveller.shift(seconds)

    def edit(self, **changes: Any) -> None:
        """Changes the row as a write of the API does, without the attempt to settle it."""
        self.edits += 1
        fields = changes or {"schedule": f"{self.edits % 60} {self.edits // 60 % 24} * * *"}
        Task.objects.filter(pk=self.task_id).update(**fields, generation=F("generation") + 1)

    def settle(self) -> None:
        self.module.settle(self.task_id, at=self.at, clock=self.clock)

    def settle_until_killed(self) -> None:
        try:
            self.settle()
        except Killed:
            return

    def run_once(self, moment: str, method: str, action: Callable[[], None]) -> None:
        """Runs `action` once, before or after the next request with this method, while its sender waits."""

        def hook(request: Request) -> None:
            if request.method == method and not is_probe(request):
                setattr(self.trigger, moment, lambda request: None)
                action()

        setattr(self.trigger, moment, hook)

    def kill(self) -> None:
        raise Killed

    def ends_in_the_right_state(self) -> bool:
        """Lets late requests take effect, settles the task until it is in sync, and compares row and schedule."""
        self.trigger.before = self.trigger.after = lambda request: None
        self.trigger.faults.clear()
        self.trigger.do_late()
        for _ in range(4):
            self.pass_time(120)
            if Task.objects.get(pk=self.task_id).sync_status != SyncStatus.IN_SYNC:
                self.settle()
                upstream.settle_down()  # after failures a probe may come first
        row = Task.objects.get(pk=self.task_id)
        actual = self.trigger.state.schedule(str(row.pk))
        desired = planning.desired_schedule(row)
        if actual is None:  # a paused task that never had a schedule gets none
            is_right = not desired.exists or not desired.active
        else:
            is_right = desired.exists and (actual.cron, actual.active) == (desired.cron, desired.active)
        return is_right and row.sync_status == SyncStatus.IN_SYNC


@pytest.fixture
def task(cast: Cast) -> Task:
    return make_task(cast.alice, cast.artist, synced_generation=0)


@pytest.fixture
def traveller() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(timezone.now()) as coordinates:
        yield coordinates


@pytest.fixture
def world(task: Task, trigger: Standin, traveller: time_machine.Traveller) -> World:
    return World(task, trigger, traveller)


# --- The interleavings -----------------------------------------------------------------------------------------------


def worker_stalls_past_its_lease_after_reading_and_is_killed(world: World) -> None:
    """If it sent the older generation and were then killed, the row would wrongly stay in sync."""

    def stall() -> None:
        world.pass_time(61)
        world.edit()
        world.settle()
        world.run_once("after", "POST", world.kill)

    world.edit()  # a new task is not read
    world.run_once("after", "GET", stall)
    world.settle_until_killed()


def worker_freezes_between_lease_check_and_request(world: World) -> None:
    """Its older write arrives after the newer one. It can only notice that it has lost the lease."""

    def freeze() -> None:
        world.pass_time(70)
        world.edit()
        world.settle()

    world.run_once("before", "POST", freeze)
    world.settle()


def request_takes_effect_after_its_timeout(world: World) -> None:
    world.edit()
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    world.settle()
    world.pass_time(5)
    world.edit()
    world.settle()


def another_worker_marks_the_task_unsettled_meanwhile(world: World) -> None:
    """A frozen worker wakes, sends its older write, notices the lost lease, and marks the row again."""
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    claim = world.module.claim_task(world.task_id, at=world.at, clock=world.clock)
    world.pass_time(61)
    world.edit()

    def wake() -> None:
        with pytest.raises(errors.TimedOut):
            world.module.act(claim.task, upstream.client(), next_deadline=lambda: time.monotonic() + 8)
        world.module.finish(claim, definite=False, reason="frozen")

    world.run_once("after", "GET", wake)
    world.settle()


def task_is_edited_while_an_older_generation_is_sent(world: World) -> None:
    world.run_once("after", "POST", world.edit)
    world.settle()


def create_times_out_and_the_task_is_deleted(world: World) -> None:
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    world.settle()
    world.edit(deleted_at=world.at)
    world.settle()


def resume_times_out_and_the_task_is_paused(world: World) -> None:
    world.settle()
    world.edit(enabled=False)
    world.settle()
    world.edit(enabled=True)
    world.trigger.faults.add(Fault("late", method="POST", times=1))
    world.settle()
    world.edit(enabled=False)
    world.settle()


def second_attempt_is_rate_limited(world: World) -> None:
    world.settle()
    request_takes_effect_after_its_timeout(world)
    world.trigger.do_late()
    world.pass_time(90)
    world.trigger.faults.add(Fault("rate_limit"))
    world.settle()


GUARDS = {
    "start no call that can outlast the lease": (
        "if now + MAX_CALL > self.started + LEASE.total_seconds():",
        "if False:",
    ),
    "mark the task unsettled when the lease is lost": (
        "again.update(unsettled_until=claim.now + UNSETTLED_FOR)",
        "pass",
    ),
    "keep an earlier unsettled mark": ("claim.can_restore_mark if reason else claim.was_settled", "True"),
    "a failed attempt clears no mark": ("claim.can_restore_mark if reason else claim.was_settled", "claim.was_settled"),
    "clear only our own mark": ("mine.filter(unsettled_until=claim.unsettled_until)", "mine"),
    "store the generation that was read": (
        '"synced_generation": claim.task.generation',
        '"synced_generation": F("generation")',
    ),
    "an unanswered call is not definite": ("definite=isinstance(error, NotOurEnvironment)", "definite=True"),
}
INTERLEAVINGS: dict[Callable[[World], None], str] = {
    worker_stalls_past_its_lease_after_reading_and_is_killed: "start no call that can outlast the lease",
    worker_freezes_between_lease_check_and_request: "mark the task unsettled when the lease is lost",
    request_takes_effect_after_its_timeout: "keep an earlier unsettled mark",
    another_worker_marks_the_task_unsettled_meanwhile: "clear only our own mark",
    task_is_edited_while_an_older_generation_is_sent: "store the generation that was read",
    create_times_out_and_the_task_is_deleted: "an unanswered call is not definite",
    resume_times_out_and_the_task_is_paused: "keep an earlier unsettled mark",
    second_attempt_is_rate_limited: "a failed attempt clears no mark",
}


@pytest.mark.parametrize("interleaving", INTERLEAVINGS, ids=lambda interleaving: interleaving.__name__)
def test_interleaving_ends_in_the_right_state(world: World, interleaving: Callable[[World], None]) -> None:
    interleaving(world)
    assert world.ends_in_the_right_state()


@pytest.mark.parametrize("interleaving", INTERLEAVINGS, ids=lambda interleaving: interleaving.__name__)
def test_interleaving_without_its_guard_ends_in_the_wrong_state(
    task: Task, trigger: Standin, traveller: time_machine.Traveller, interleaving: Callable[[World], None]
) -> None:
    for module in without_guard(INTERLEAVINGS[interleaving]):
        world = World(task, trigger, traveller, module)
        interleaving(world)
        assert not world.ends_in_the_right_state()


def without_guard(name: str) -> Iterator[ModuleType]:
    """The module `tasks.schedules.settling` with one guard removed from its source."""
    guard, replacement = GUARDS[name]
    source = Path(str(settling.__file__)).read_text()
    assert source.count(guard) == 1, f"update GUARDS: the source of {name!r} has changed"
    module = ModuleType("settling_without_a_guard")
    sys.modules[module.__name__] = module
    code = "from django.db.models import F\n" + source.replace(guard, replacement)
    exec(compile(code, "settling_without_a_guard", "exec"), module.__dict__)  # noqa: S102  our own source
    yield module
    del sys.modules[module.__name__]


class RandomInterleaving:
    """Random edits, workers, faults and delays that interrupt each other.

    A worker that freezes between its lease check and its request is not killed too: the protocol cannot repair that.
    """

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.depth, self.has_frozen = 0, False

    def run(self) -> None:
        for _ in range(self.rng.randint(2, 6)):
            self.has_frozen = False
            self.world.trigger.before, self.world.trigger.after = self.before, self.after
            kind: Any = self.rng.choice(["late", "late", "reset", "status", "hang", "garbage"])
            method = self.rng.choice(["GET", "POST", "DELETE", "*"])
            self.world.trigger.faults.add(Fault(kind, method=method, times=1))
            make_random_edit(self.world, self.rng)
            self.world.settle_until_killed()
            if self.rng.random() < 0.5:
                self.world.trigger.do_late()
            self.world.pass_time(self.rng.choice([0, 1, 20, 40]))

    def before(self, request: Request) -> None:
        if not is_probe(request) and self.rng.random() < 0.2:
            self.has_frozen = True
            self.interfere()

    def after(self, request: Request) -> None:
        if is_probe(request):
            return
        self.interfere()
        if self.rng.random() < 0.1 and not self.has_frozen:
            raise Killed

    def interfere(self) -> None:
        if self.depth > 2:
            return
        self.depth += 1
        self.world.pass_time(self.rng.choice([0, 0, 0.1, 5, 31, 61]))
        if self.rng.random() < 0.4:
            make_random_edit(self.world, self.rng)
        if self.rng.random() < 0.4:
            self.world.settle_until_killed()
        self.depth -= 1


def make_random_edit(world: World, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.1:
        world.edit(deleted_at=world.at)
    elif kind < 0.4:
        world.edit(enabled=rng.choice([True, False, None]))
    else:
        world.edit()


def check_random_interleavings(cast: Cast, trigger: Standin, traveller: time_machine.Traveller, seeds: range) -> None:
    for seed in seeds:
        world = World(make_task(cast.alice, cast.artist, synced_generation=0), trigger, traveller)
        RandomInterleaving(world, random.Random(seed)).run()
        assert world.ends_in_the_right_state(), f"seed {seed}"


def test_random_interleavings_end_in_the_right_state(
    cast: Cast, trigger: Standin, traveller: time_machine.Traveller
) -> None:
    trigger.rate_limit = 0
    check_random_interleavings(cast, trigger, traveller, range(60))


@pytest.mark.slow
def test_500_random_interleavings_end_in_the_right_state(
    cast: Cast, trigger: Standin, traveller: time_machine.Traveller
) -> None:
    trigger.rate_limit = 0
    check_random_interleavings(cast, trigger, traveller, range(1000, 1500))


# --- Environments, and schedules that belong to others ---------------------------------------------------------------


def test_another_trigger_environment_is_refused_until_an_operator_accepts_it(
    world: World, trigger: Standin, settings: Settings
) -> None:
    world.settle()
    settings.TRIGGER_NAMESPACE = "staging-"
    world.edit()
    calls_before = trigger.asked["all"]
    world.settle()
    row = Task.objects.get()
    assert (row.sync_status, trigger.asked["all"]) == (SyncStatus.PENDING, calls_before)
    assert "accept_trigger_environment" in row.sync_error
    environment.accept_environment(at=world.at)
    world.settle()
    assert Task.objects.get().sync_status == SyncStatus.IN_SYNC
    ours, former = trigger.state.schedule(f"staging-{row.pk}"), trigger.state.schedule(str(row.pk))
    assert ours is not None
    assert former is not None, "a schedule with another key belongs to another copy of the database"
    assert (ours.cron, Task.objects.get().trigger_schedule_id) == (row.schedule, ours.id)
    writes.delete_task(row, actor=TESTER, at=world.at)
    assert trigger.state.schedule(former.id) is not None


def test_a_trigger_key_other_than_production_needs_a_namespace(
    world: World, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_SECRET_KEY = "tr_dev_x"
    world.settle()
    assert trigger.asked["all"] == 0
    assert "TRIGGER_NAMESPACE must be set" in Task.objects.get().sync_error


@pytest.mark.parametrize("schedule", ["0 9 * * 07", ", * * * *", "0 9 * * L"])
def test_a_stored_schedule_that_breaks_trigger_is_refused_without_a_call(
    world: World, trigger: Standin, schedule: str
) -> None:
    """From before it was refused: it was pending for ever, and each sync failed."""
    Task.objects.update(schedule=schedule)
    world.settle()
    row = Task.objects.get()
    assert (row.sync_status, trigger.asked["all"]) == (SyncStatus.REFUSED, 0)
    assert row.sync_error.startswith("The ")
    writes.delete_task(row, actor=TESTER, at=world.at)
    assert Task.objects.get().sync_status is SyncStatus.IN_SYNC


def test_a_schedule_id_of_another_task_leaves_this_task_pending(cast: Cast, world: World) -> None:
    world.settle()
    others_schedule_id = Task.objects.get().trigger_schedule_id
    Task.objects.update(trigger_schedule_id=None)
    make_task(cast.alice, cast.artist, trigger_schedule_id=others_schedule_id)
    world.edit()
    world.settle()
    row = Task.objects.get(pk=world.task_id)
    assert (row.sync_status, row.lease_token) == (SyncStatus.PENDING, None)
    assert "already belongs to another task" in row.sync_error


def test_a_schedule_of_the_previous_service_is_adopted(cast: Cast, trigger: Standin) -> None:
    """It has no deduplication key of ours. The task updates it by its id, so it keeps its id and its run history."""
    response = trigger.answer(
        Request(
            "PUT",
            "/api/v1/schedules/sched_none",
            {"Authorization": "Bearer tr_prod_tests"},
            b'{"task": "customer-prompt-task", "cron": "1 1 * * *"}',
        )
    )
    (adopted,) = trigger.state.schedules()
    assert response.status == 200
    task = make_task(cast.alice, cast.artist, trigger_schedule_id=adopted.id, synced_generation=0)
    settling.settle(task.pk, at=timezone.now())
    (updated,) = trigger.state.schedules()
    assert (updated.id, updated.cron, updated.external_id, updated.key) == (
        adopted.id,
        task.schedule,
        str(task.pk),
        None,
    )
