"""Idempotency keys on POST /api/tasks: an agent that retries gets the same task and creates nothing twice."""

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import ArtistLink, Membership, Organization
from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from tasks import idempotency, writes
from tasks.models import Task, TaskCreation
from tests.cast import TESTER, Cast, make_key
from tests.client import ContractClient, with_key

PATH = "/api/tasks"


@pytest.fixture(autouse=True)
def link_artist_to_label(cast: Cast) -> None:
    ArtistLink.objects.create(artist_account=cast.artist, organization=Organization.objects.get(name="Label"))


def task_body(cast: Cast, **changes: Any) -> dict[str, Any]:
    fields = {"title": "Report", "prompt": "Write it.", "schedule": "0 9 * * 1-5"}
    return {**fields, "artist_account_id": str(cast.artist.pk), **changes}


def post_task(api: APIClient, data: Any, key: str | None = "once") -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(PATH, data, format="json", headers=headers)


def created_task(response: Any) -> Any:
    assert response.status_code == 200, response.content
    (task,) = response.json()["tasks"]
    return task


def test_a_repeated_idempotency_key_returns_the_current_task(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    first = post_task(alice_api, task_body(cast))
    alice_api.patch(PATH, {"id": created_task(first)["id"], "title": "Renamed"}, format="json")
    second = post_task(alice_api, task_body(cast))
    assert (created_task(second)["id"], created_task(second)["title"]) == (created_task(first)["id"], "Renamed")
    assert (first.get("Idempotent-Replayed"), second["Idempotent-Replayed"]) == (None, "true")
    assert (Task.objects.count(), trigger.state.count_schedules()) == (1, 1)


def test_the_same_body_in_another_notation_counts_as_the_same(alice_api: ContractClient, cast: Cast) -> None:
    first = created_task(post_task(alice_api, task_body(cast)))
    reordered = dict(reversed(task_body(cast, artist_account_id=str(cast.artist.pk).upper()).items()))
    raw: Any = json.dumps(reordered, indent=3).encode()
    headers = {"Idempotency-Key": " once "}
    second = alice_api.generic("POST", PATH, raw, content_type="application/json", headers=headers)
    assert created_task(second)["id"] == first["id"]


@pytest.mark.parametrize("change", [{"title": "Other"}, {"model": "x"}, {"timezone": "UTC"}])
def test_the_same_idempotency_key_with_a_different_body_is_a_409(
    alice_api: ContractClient, cast: Cast, change: Any
) -> None:
    post_task(alice_api, task_body(cast))
    response = post_task(alice_api, task_body(cast, **change))
    assert (response.status_code, response.json()["error"]) == (409, 409)
    assert "a different body" in response.json()["message"]
    assert Task.objects.count() == 1


def test_another_caller_another_key_or_no_key_creates_another_task(alice_api: ContractClient, cast: Cast) -> None:
    bob_api = with_key(make_key(cast.bob))
    keys = [(alice_api, "once"), (bob_api, "once"), (alice_api, "twice"), (alice_api, None)]
    tasks = {created_task(post_task(api, task_body(cast), key))["id"] for api, key in keys}
    assert len(tasks) == 4


def test_a_repeated_request_is_checked_for_access_again(cast: Cast) -> None:
    """Bob created the task for Alice and then left her organization."""
    bob_api, request_body = with_key(make_key(cast.bob)), task_body(cast, account_id=str(cast.alice.pk))
    created_task(post_task(bob_api, request_body))
    Membership.objects.filter(account=cast.bob).delete()
    assert post_task(bob_api, request_body).status_code == 403


def test_a_repeated_idempotency_key_of_a_deleted_task_is_a_409(alice_api: ContractClient, cast: Cast) -> None:
    task = created_task(post_task(alice_api, task_body(cast)))
    alice_api.delete(PATH, {"id": task["id"]}, format="json")
    response = post_task(alice_api, task_body(cast))
    assert (response.status_code, "has been deleted" in response.json()["message"]) == (409, True)


def test_a_failed_request_does_not_use_up_the_idempotency_key(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    assert post_task(alice_api, task_body(cast, schedule="nonsense")).status_code == 400
    refusal = Fault("status", method="POST", status=422, message="Invalid cron expression: too modern", times=1)
    trigger.faults.add(refusal)
    assert post_task(alice_api, task_body(cast)).status_code == 400
    assert (TaskCreation.objects.count(), Task.objects.count()) == (0, 0)
    assert created_task(post_task(alice_api, task_body(cast)))["sync_status"] == "in_sync"


def test_a_concurrent_repeat_waits_and_does_not_return_a_task_that_is_rolled_back(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    """The repeat arrives while Trigger.dev handles the first request, which continues after the repeat timed out."""
    second_client, responses = with_key(make_key(cast.alice)), list[Any]()

    def repeat(request: Request) -> None:
        trigger.before = lambda request: None
        settings.REQUEST_DEADLINE = 0.2
        responses.append(post_task(second_client, task_body(cast)))

    trigger.before = repeat
    refusal = "Invalid IANA timezone: 'UTC'"
    trigger.faults.add(Fault("status", path="/api/v1/schedules/*", status=404, message="Schedule not found"))
    trigger.faults.add(Fault("status", method="POST", status=422, message=refusal))
    first = post_task(alice_api, task_body(cast))
    assert (first.status_code, responses[0].status_code, responses[0]["Retry-After"]) == (400, 409, "2")
    assert (Task.objects.count(), TaskCreation.objects.count()) == (0, 0)


def test_the_task_of_a_killed_request_is_returned_after_its_lease(alice_api: ContractClient, cast: Cast) -> None:
    first = created_task(post_task(alice_api, task_body(cast)))
    Task.objects.update(synced_generation=0, created_at=timezone.now() - timedelta(seconds=31))
    assert created_task(post_task(alice_api, task_body(cast)))["id"] == first["id"]


def test_a_task_that_was_changed_concurrently_keeps_its_idempotency_key(cast: Cast, alice_api: ContractClient) -> None:
    task = Task.objects.get(pk=created_task(post_task(alice_api, task_body(cast)))["id"])
    Task.objects.update(generation=2)
    assert not writes.undo_creation(task, actor=TESTER, at=timezone.now(), reason="refused")
    assert (TaskCreation.objects.count(), Task.objects.count()) == (1, 1)


def test_a_task_created_as_pending_keeps_its_idempotency_key(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    trigger.faults.add(Fault("late", method="POST", times=1))
    first = created_task(post_task(alice_api, task_body(cast)))
    second = created_task(post_task(alice_api, task_body(cast)))
    trigger.do_late()
    assert (first["sync_status"], second["id"], trigger.state.count_schedules()) == ("pending", first["id"], 1)


def test_an_idempotency_key_expires_after_a_day(alice_api: ContractClient, cast: Cast) -> None:
    first = created_task(post_task(alice_api, task_body(cast)))
    TaskCreation.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert created_task(post_task(alice_api, task_body(cast, title="Other")))["id"] != first["id"]
    TaskCreation.objects.update(created_at=timezone.now() - timedelta(hours=25))
    idempotency.delete_expired_keys(at=timezone.now())
    assert TaskCreation.objects.count() == 0


@pytest.mark.parametrize(
    ("key", "status"), [("k" * 255, 200), ("k" * 256, 400), ("", 400), (" ", 400), ("a\x01b", 400), ("schlüssel", 200)]
)
def test_the_valid_idempotency_keys(alice_api: ContractClient, cast: Cast, key: str, status: int) -> None:
    assert post_task(alice_api, task_body(cast), key).status_code == status
    assert Task.objects.count() == (status == 200)


@pytest.mark.django_db(transaction=True)
def test_fifty_concurrent_requests_with_one_idempotency_key_create_one_task_and_one_schedule(
    transactional_db: None, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    """Also where that task takes the last place of its account."""
    settings.TASK_LIMIT = 1
    key, request_body, responses = make_key(cast.alice), task_body(cast), list[Any]()
    barrier = threading.Barrier(50)

    def send() -> None:
        api = APIClient(raise_request_exception=False)
        api.credentials(HTTP_X_API_KEY=key)
        barrier.wait(30)
        try:
            response = post_task(api, request_body)
            # On a busy machine the first one is in progress for long, or no connection is free: send this one again.
            while response.status_code == 409 or response.has_header("Retry-After"):
                response = post_task(api, request_body)
            responses.append(response)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [response.status_code for response in responses] == [200] * 50
    assert len({created_task(response)["id"] for response in responses}) == 1
    assert (Task.objects.count(), trigger.state.count_schedules()) == (1, 1)
    assert trigger.asked["POST /api/v1/schedules"] == 1
