"""Concurrent writes, with real threads, connections and transactions."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import time_machine
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.test import Client, override_settings
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import ArtistLink
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from tasks.gateway import upstream
from tasks.gateway.breaker import PAUSE, TRIAL_TIMEOUT
from tasks.models import SyncStatus, Task
from tasks.schedules.settling import UNSETTLED_FOR, settle
from tasks.trigger import errors
from tests.cast import Cast, make_key, make_task

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def task(transactional_db: None, cast: Cast) -> Task:
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    return make_task(cast.alice, cast.artist, synced_generation=0)


def run_concurrently(*actions: Callable[[], Any]) -> list[Any]:
    """Runs each action in its own thread, closes the thread's connections, and returns the results."""
    results: list[Any] = [None] * len(actions)
    barrier = threading.Barrier(len(actions))

    def run(number: int, action: Callable[[], Any]) -> None:
        try:
            barrier.wait(10)
            results[number] = action()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def patch_request(key: str, task: Task, **changes: Any) -> Callable[[], int]:
    def send() -> int:
        client = APIClient(raise_request_exception=False)
        client.credentials(HTTP_X_API_KEY=key)
        return client.patch("/api/tasks", {"id": str(task.pk), **changes}, format="json").status_code

    return send


def test_no_transaction_is_open_during_a_call_to_trigger(task: Task, cast: Cast, trigger: Standin) -> None:
    in_transaction: list[bool] = []
    trigger.before = lambda request: in_transaction.append(connection.in_atomic_block)
    patch_request(make_key(cast.alice), task, schedule="1 1 * * *")()
    staff = Client()
    staff.force_login(get_user_model().objects.create_superuser("staff", password="a long password"))
    staff.post(
        f"/admin/tasks/task/{task.pk}/change/",
        {"title": "t", "prompt": "p", "schedule": "2 2 * * *", "timezone": "UTC", "artist_account": cast.artist.pk},
    )
    staff.post(f"/admin/tasks/task/{task.pk}/delete/", {"post": "yes"})
    assert trigger.state.count_schedules() == 0
    assert len(in_transaction) >= 6
    assert not any(in_transaction)


def close_circuit_breakers(clock: time_machine.Traveller) -> None:
    """An open circuit breaker sends no calls, but the writes of the next round must reach Trigger.dev."""
    while upstream.gate().has_open_breaker():
        clock.shift(PAUSE + TRIAL_TIMEOUT)
        with suppress(errors.TriggerError):
            upstream.client().retrieve_schedule("unknown", deadline=upstream.deadline_from_now())
        upstream.settle_down()


def check_newest_write_wins(task: Task, cast: Cast, trigger: Standin, *, rounds: int, seed: int) -> None:
    with time_machine.travel(timezone.now()) as clock, override_settings(TRIGGER_CALLS_PER_MINUTE=10**6):
        patch_in_rounds(task, cast, trigger, clock, rounds=rounds, seed=seed)


def patch_in_rounds(
    task: Task, cast: Cast, trigger: Standin, clock: time_machine.Traveller, *, rounds: int, seed: int
) -> None:
    trigger.rate_limit = 0
    rng, key = random.Random(seed), make_key(cast.alice)
    for number in range(rounds):
        if rng.random() < 0.5:
            kind: Any = rng.choice(["late", "reset", "status", "hang"])
            trigger.faults.add(Fault(kind, method=rng.choice(["POST", "GET"]), path="/api/v1/schedules*", times=1))
        first, second = (f"{number % 60} {hour} * * *" for hour in (1, 2))
        statuses = run_concurrently(
            patch_request(key, task, schedule=first), patch_request(key, task, schedule=second, enabled=True)
        )
        assert statuses == [200, 200], f"seed {seed}, round {number}"
        close_circuit_breakers(clock)
    trigger.faults.clear()
    trigger.do_late()
    row = Task.objects.get(pk=task.pk)
    if row.sync_status != SyncStatus.IN_SYNC:
        settle(task.pk, at=timezone.now() + 2 * UNSETTLED_FOR)
    row = Task.objects.get(pk=task.pk)
    schedule = trigger.state.schedule(str(task.pk))
    assert schedule is not None
    assert (row.sync_status, schedule.cron) == (SyncStatus.IN_SYNC, row.schedule), f"seed {seed}"
    assert trigger.state.count_schedules() == 1


def test_after_two_concurrent_patches_the_newer_generation_is_synced(task: Task, cast: Cast, trigger: Standin) -> None:
    check_newest_write_wins(task, cast, trigger, rounds=10, seed=1)


@pytest.mark.slow
def test_after_two_concurrent_patches_the_newer_generation_is_synced_500_times(
    task: Task, cast: Cast, trigger: Standin
) -> None:
    check_newest_write_wins(task, cast, trigger, rounds=500, seed=2)


def test_concurrent_patches_of_different_fields_are_both_kept(task: Task, cast: Cast) -> None:
    key = make_key(cast.alice)
    for number in range(5):
        run_concurrently(
            patch_request(key, task, title=f"title {number}"), patch_request(key, task, prompt=f"prompt {number}")
        )
        row = Task.objects.get(pk=task.pk)
        assert (row.title, row.prompt) == (f"title {number}", f"prompt {number}")
