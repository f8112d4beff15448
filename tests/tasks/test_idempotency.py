"""Idempotency-Key on POST /api/tasks: agents retry, and get what they made and nothing twice."""

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
from tests.cast import Cast, make_key
from tests.client import ContractClient, with_key

PATH = "/api/tasks"


@pytest.fixture(autouse=True)
def linked(cast: Cast) -> None:
    ArtistLink.objects.create(artist_account=cast.artist, organization=Organization.objects.get(name="Label"))


def body(cast: Cast, **changes: Any) -> dict[str, Any]:
    made = {"title": "Report", "prompt": "Write it.", "schedule": "0 9 * * 1-5"}
    return {**made, "artist_account_id": str(cast.artist.pk), **changes}


def post(api: APIClient, data: Any, key: str | None = "once") -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(PATH, data, format="json", headers=headers)


def made(response: Any) -> Any:
    assert response.status_code == 200, response.content
    (task,) = response.json()["tasks"]
    return task


def test_a_repeated_post_gives_the_task_as_it_is_now(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    first = post(alice_api, body(cast))
    alice_api.patch(PATH, {"id": made(first)["id"], "title": "Renamed"}, format="json")
    again = post(alice_api, body(cast))
    assert (made(again)["id"], made(again)["title"]) == (made(first)["id"], "Renamed")
    assert (first.get("Idempotent-Replayed"), again["Idempotent-Replayed"]) == (None, "true")
    assert (Task.objects.count(), trigger.state.count_schedules()) == (1, 1)


def test_the_same_body_written_otherwise_is_the_same(alice_api: ContractClient, cast: Cast) -> None:
    first = made(post(alice_api, body(cast)))
    turned = dict(reversed(body(cast, artist_account_id=str(cast.artist.pk).upper()).items()))
    raw = json.dumps(turned, indent=3).encode()
    again = alice_api.generic("POST", PATH, raw, content_type="application/json", headers={"Idempotency-Key": " once "})  # type: ignore[arg-type]
    assert made(again)["id"] == first["id"]


@pytest.mark.parametrize("change", [{"title": "Other"}, {"model": "x"}, {"timezone": "UTC"}])
def test_another_body_is_a_409_and_makes_nothing(alice_api: ContractClient, cast: Cast, change: Any) -> None:
    post(alice_api, body(cast))
    response = post(alice_api, body(cast, **change))
    assert (response.status_code, response.json()["error"]) == (409, 409)
    assert "a different body" in response.json()["message"]
    assert Task.objects.count() == 1


def test_another_caller_or_key_or_none_makes_another_task(alice_api: ContractClient, cast: Cast) -> None:
    bob_api = with_key(make_key(cast.bob))
    keys = [(alice_api, "once"), (bob_api, "once"), (alice_api, "twice"), (alice_api, None)]
    tasks = {made(post(api, body(cast), key))["id"] for api, key in keys}
    assert len(tasks) == 4


def test_access_is_checked_anew(cast: Cast) -> None:
    """Bob made it for Alice, and has left her organization."""
    bob_api, ordered = with_key(make_key(cast.bob)), body(cast, account_id=str(cast.alice.pk))
    made(post(bob_api, ordered))
    Membership.objects.filter(account=cast.bob).delete()
    assert post(bob_api, ordered).status_code == 403


def test_what_was_deleted_is_not_made_again(alice_api: ContractClient, cast: Cast) -> None:
    task = made(post(alice_api, body(cast)))
    alice_api.delete(PATH, {"id": task["id"]}, format="json")
    response = post(alice_api, body(cast))
    assert (response.status_code, "has been deleted" in response.json()["message"]) == (409, True)


def test_only_successes_are_kept(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    assert post(alice_api, body(cast, schedule="nonsense")).status_code == 400
    refusal = Fault("status", method="POST", status=422, message="Invalid cron expression: too modern", times=1)
    trigger.faults.add(refusal)
    assert post(alice_api, body(cast)).status_code == 400
    assert (TaskCreation.objects.count(), Task.objects.count()) == (0, 0)
    assert made(post(alice_api, body(cast)))["sync_status"] == "in_sync"


def test_a_repeat_waits_for_the_first_and_is_not_given_a_task_that_is_taken_back(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    """It arrives while Trigger.dev is about to refuse the first one, which is held up as long as the repeat waits."""
    other, answers = with_key(make_key(cast.alice)), list[Any]()

    def repeat(request: Request) -> None:
        trigger.before = lambda request: None
        settings.REQUEST_DEADLINE = 0.2
        answers.append(post(other, body(cast)))

    trigger.before = repeat
    refusal = "Invalid IANA timezone: 'UTC'"
    trigger.faults.add(Fault("status", path="/api/v1/schedules/*", status=404, message="Schedule not found"))
    trigger.faults.add(Fault("status", method="POST", status=422, message=refusal))
    first = post(alice_api, body(cast))
    assert (first.status_code, answers[0].status_code, answers[0]["Retry-After"]) == (400, 409, "2")
    assert (Task.objects.count(), TaskCreation.objects.count()) == (0, 0)


def test_what_a_killed_request_left_is_given_after_its_lease(alice_api: ContractClient, cast: Cast) -> None:
    first = made(post(alice_api, body(cast)))
    Task.objects.update(synced_generation=0, created_at=timezone.now() - timedelta(seconds=31))
    assert made(post(alice_api, body(cast)))["id"] == first["id"]


def test_a_key_stays_with_a_task_that_somebody_changed_meanwhile(cast: Cast, alice_api: ContractClient) -> None:
    task = Task.objects.get(pk=made(post(alice_api, body(cast)))["id"])
    Task.objects.update(generation=2)
    assert not writes.undo_creation(task, at=timezone.now())
    assert (TaskCreation.objects.count(), Task.objects.count()) == (1, 1)


def test_trigger_being_away_is_a_success_that_is_kept(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    trigger.faults.add(Fault("late", method="POST", times=1))
    first = made(post(alice_api, body(cast)))
    again = made(post(alice_api, body(cast)))
    trigger.do_late()
    assert (first["sync_status"], again["id"], trigger.state.count_schedules()) == ("pending", first["id"], 1)


def test_a_key_is_forgotten_after_a_day(alice_api: ContractClient, cast: Cast) -> None:
    first = made(post(alice_api, body(cast)))
    TaskCreation.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert made(post(alice_api, body(cast, title="Other")))["id"] != first["id"]
    TaskCreation.objects.update(created_at=timezone.now() - timedelta(hours=25))
    idempotency.delete_expired_keys(at=timezone.now())
    assert TaskCreation.objects.count() == 0


@pytest.mark.parametrize(
    ("key", "status"), [("k" * 255, 200), ("k" * 256, 400), ("", 400), (" ", 400), ("a\x01b", 400), ("schlüssel", 200)]
)
def test_which_keys_there_may_be(alice_api: ContractClient, cast: Cast, key: str, status: int) -> None:
    assert post(alice_api, body(cast), key).status_code == status
    assert Task.objects.count() == (status == 200)


@pytest.mark.django_db(transaction=True)
def test_fifty_at_once_make_one_task_and_one_schedule(transactional_db: None, cast: Cast, trigger: Standin) -> None:
    key, ordered, answers = make_key(cast.alice), body(cast), list[Any]()
    barrier = threading.Barrier(50)

    def send() -> None:
        api = APIClient(raise_request_exception=False)
        api.credentials(HTTP_X_API_KEY=key)
        barrier.wait(30)
        try:
            answers.append(post(api, ordered))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [200] * 50
    assert len({made(answer)["id"] for answer in answers}) == 1
    assert (Task.objects.count(), trigger.state.count_schedules()) == (1, 1)
    assert trigger.asked["POST /api/v1/schedules"] == 1
