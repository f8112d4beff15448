"""Writers at the same time, with real threads, connections and transactions."""

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


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Runs each in a thread, which gives its connection back; what they returned."""
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


def patch(key: str, task: Task, **changes: Any) -> Callable[[], int]:
    def send() -> int:
        client = APIClient(raise_request_exception=False)
        client.credentials(HTTP_X_API_KEY=key)
        return client.patch("/api/tasks", {"id": str(task.pk), **changes}, format="json").status_code

    return send


def test_no_transaction_is_open_while_trigger_is_asked(task: Task, cast: Cast, trigger: Standin) -> None:
    opened: list[bool] = []
    trigger.before = lambda request: opened.append(connection.in_atomic_block)
    patch(make_key(cast.alice), task, schedule="1 1 * * *")()
    staff = Client()
    staff.force_login(get_user_model().objects.create_superuser("staff", password="a long password"))
    staff.post(
        f"/admin/tasks/task/{task.pk}/change/",
        {"title": "t", "prompt": "p", "schedule": "2 2 * * *", "timezone": "UTC", "artist_account": cast.artist.pk},
    )
    staff.post(f"/admin/tasks/task/{task.pk}/delete/", {"post": "yes"})
    assert trigger.state.count_schedules() == 0
    assert len(opened) >= 6
    assert not any(opened)


def close_circuit(passing: time_machine.Traveller) -> None:
    """After repeated failures nothing is sent, but these writers have to meet at Trigger.dev."""
    while upstream.gate().has_open_breaker():
        passing.shift(PAUSE + TRIAL_TIMEOUT)
        with suppress(errors.TriggerError):
            upstream.client().retrieve_schedule("unknown", deadline=upstream.deadline_from_now())
        upstream.settle_down()


def check_rounds(task: Task, cast: Cast, trigger: Standin, *, rounds: int, seed: int) -> None:
    with time_machine.travel(timezone.now()) as passing, override_settings(TRIGGER_CALLS_PER_MINUTE=10**6):
        play_rounds(task, cast, trigger, passing, rounds=rounds, seed=seed)


def play_rounds(
    task: Task, cast: Cast, trigger: Standin, passing: time_machine.Traveller, *, rounds: int, seed: int
) -> None:
    trigger.rate_limit = 0
    chance, key = random.Random(seed), make_key(cast.alice)
    for number in range(rounds):
        if chance.random() < 0.5:
            kind: Any = chance.choice(["late", "reset", "status", "hang"])
            trigger.faults.add(Fault(kind, method=chance.choice(["POST", "GET"]), path="/api/v1/schedules*", times=1))
        one, other = (f"{number % 60} {hour} * * *" for hour in (1, 2))
        statuses = at_once(patch(key, task, schedule=one), patch(key, task, schedule=other, enabled=True))
        assert statuses == [200, 200], f"seed {seed}, round {number}"
        close_circuit(passing)
    trigger.faults.clear()
    trigger.do_late()
    row = Task.objects.get(pk=task.pk)
    if row.sync_status != SyncStatus.IN_SYNC:
        settle(task.pk, at=timezone.now() + 2 * UNSETTLED_FOR)
    row = Task.objects.get(pk=task.pk)
    held = trigger.state.schedule(str(task.pk))
    assert held is not None
    assert (row.sync_status, held.cron) == (SyncStatus.IN_SYNC, row.schedule), f"seed {seed}"
    assert trigger.state.count_schedules() == 1


def test_two_patches_at_once_end_with_the_newer(task: Task, cast: Cast, trigger: Standin) -> None:
    check_rounds(task, cast, trigger, rounds=10, seed=1)


@pytest.mark.slow
def test_two_patches_at_once_500_times_end_with_the_newer(task: Task, cast: Cast, trigger: Standin) -> None:
    check_rounds(task, cast, trigger, rounds=500, seed=2)


def test_two_writers_of_different_fields_lose_nothing(task: Task, cast: Cast) -> None:
    key = make_key(cast.alice)
    for number in range(5):
        at_once(patch(key, task, title=f"title {number}"), patch(key, task, prompt=f"prompt {number}"))
        row = Task.objects.get(pk=task.pk)
        assert (row.title, row.prompt) == (f"title {number}", f"prompt {number}")
