"""What an account may have: the number of its tasks, how often they fire, and the bytes of its prompts."""

import threading
from typing import Any

import pytest
import time_machine
from django.db import connections
from django.test import Client
from pytest_django import Settings

from accounts.models import Account, ArtistLink
from demo.standin.standin import Standin
from tasks.models import Task
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

PATH = "/api/tasks"


@pytest.fixture
def fields(cast: Cast) -> dict[str, Any]:
    for account in (cast.alice, cast.bob):
        ArtistLink.objects.create(account=account, artist_account=cast.artist)
    return {"title": "t", "prompt": "p", "schedule": "0 9 * * *", "artist_account_id": str(cast.artist.pk)}


def post(api: ContractClient, fields: dict[str, Any], **more: Any) -> Any:
    return api.post(PATH, {**fields, **more}, format="json")


def patch(api: ContractClient, task: Task, **changes: Any) -> Any:
    return api.patch(PATH, {"id": str(task.pk), **changes}, format="json")


@pytest.mark.parametrize(("own", "setting"), [(2, 500), (None, 2)])
def test_the_task_over_the_limit_is_a_402_with_the_numbers(
    alice_api: ContractClient, cast: Cast, fields: Any, trigger: Standin, settings: Settings, own: Any, setting: int
) -> None:
    Account.objects.filter(pk=cast.alice.pk).update(task_limit=own)
    settings.TASK_LIMIT = setting
    assert [post(alice_api, fields).status_code for _ in range(2)] == [200, 200]
    sent = trigger.asked["all"]
    response = post(alice_api, fields)
    assert (response.status_code, response.json()) == (
        402,
        {
            "status": "error",
            "error": "plan_limit",
            "limit": "task_count",
            "task_limit": 2,
            "current_task_count": 2,
            "message": "This account has 2 tasks, and may have 2. Delete one, or ask for a higher limit.",
        },
    )
    assert (Task.objects.count(), trigger.asked["all"]) == (2, sent)
    deleted = Task.objects.living()[0]
    assert alice_api.delete(PATH, {"id": str(deleted.pk)}, format="json").status_code == 200
    assert post(alice_api, fields).status_code == 200


def test_the_limit_is_that_of_the_account_that_will_own_the_task(cast: Cast, fields: Any) -> None:
    bob_api = with_key(make_key(cast.bob))
    Account.objects.filter(pk=cast.bob.pk).update(task_limit=0)
    assert post(bob_api, fields, account_id=str(cast.alice.pk)).status_code == 200
    assert post(bob_api, fields).status_code == 402


def test_a_schedule_that_fires_too_often_is_a_402(
    alice_api: ContractClient, cast: Cast, fields: Any, trigger: Standin
) -> None:
    Account.objects.filter(pk=cast.alice.pk).update(min_cadence_minutes=60)
    response = post(alice_api, fields, schedule="0,30 9 * * *")
    assert (response.status_code, response.json()) == (
        402,
        {
            "status": "error",
            "error": "plan_limit",
            "limit": "min_cadence_minutes",
            "min_cadence_minutes": 60,
            "current_cadence_minutes": 30,
            "message": "This schedule fires every 30 minutes at times. This account's tasks need 60 in between.",
        },
    )
    task = make_task(cast.alice, cast.artist)
    assert patch(alice_api, task, schedule="*/15 * * * *").status_code == 402
    assert patch(alice_api, task, schedule="0 * * * *").status_code == 200


@pytest.mark.parametrize("at", ["2027-03-25T12:00:00+00:00", "2027-10-29T12:00:00+00:00"])
def test_a_day_with_23_hours_breaks_no_limit(alice_api: ContractClient, cast: Cast, fields: Any, at: str) -> None:
    Account.objects.filter(pk=cast.alice.pk).update(min_cadence_minutes=24 * 60)
    with time_machine.travel(at, tick=False):
        assert post(alice_api, fields, schedule="0 9 * * *", timezone="Europe/Berlin").status_code == 200


def test_what_an_account_had_before_its_limit_can_still_be_edited(alice_api: ContractClient, cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, schedule="* * * * *")
    Account.objects.filter(pk=cast.alice.pk).update(min_cadence_minutes=60, task_limit=0)
    assert patch(alice_api, task, title="new", schedule="* * * * *").status_code == 200


def test_the_bytes_of_all_prompts_are_limited(
    alice_api: ContractClient, cast: Cast, fields: Any, settings: Settings
) -> None:
    settings.MAX_PROMPT_BYTES = 100
    task = make_task(cast.alice, cast.artist, prompt="\U0001f600" * 15)
    response = post(alice_api, fields, prompt="p" * 41)
    assert (response.status_code, response.json()["missing_fields"]) == (400, ["prompt"])
    assert "would have 101 bytes together, and may have 100" in response.json()["message"]
    assert post(alice_api, fields, prompt="p" * 40).status_code == 200
    assert patch(alice_api, task, prompt="\U0001f600" * 16).status_code == 400
    assert patch(alice_api, task, prompt="x").status_code == 200


def test_an_account_that_is_over_the_limit_already_can_shorten_a_prompt(
    alice_api: ContractClient, cast: Cast, settings: Settings
) -> None:
    task = make_task(cast.alice, cast.artist, prompt="p" * 200)
    settings.MAX_PROMPT_BYTES = 100
    assert patch(alice_api, task, prompt="p" * 199).status_code == 200


def test_the_admin_site_names_the_limit(admin_client: Client, cast: Cast, fields: Any) -> None:
    Account.objects.filter(pk=cast.alice.pk).update(task_limit=0)
    form = {**fields, "account": cast.alice.pk, "artist_account": cast.artist.pk, "timezone": "UTC", "enabled": "true"}
    response = admin_client.post("/admin/tasks/task/add/", form)
    assert "This account has 0 tasks, and may have 0." in response.content.decode()
    assert Task.objects.count() == 0


def test_concurrent_requests_create_no_more_tasks_than_the_limit(
    transactional_db: None, cast: Cast, fields: Any, settings: Settings
) -> None:
    settings.TASK_LIMIT = 3
    key, statuses, barrier = make_key(cast.alice), list[int](), threading.Barrier(8)

    def send() -> None:
        barrier.wait(30)
        try:
            statuses.append(post(with_key(key), fields).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [200] * 3 + [402] * 5
    assert Task.objects.count() == 3
