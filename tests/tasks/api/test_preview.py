"""GET /api/tasks/preview: when a schedule would run, or the 400 that a create would give."""

from datetime import datetime
from typing import Any

import pytest
import time_machine
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from accounts.models import ApiKey
from demo.standin.standin import Standin
from tests.cast import Cast, make_task
from tests.client import ContractClient

PATH = "/api/tasks/preview"


def ask(api: ContractClient, **query: Any) -> Any:
    return api.get(PATH, query)


@time_machine.travel("2026-10-23 12:00:00Z", tick=False)
def test_the_next_times_in_utc_and_local_time_over_a_clock_change(alice_api: ContractClient) -> None:
    body = ask(alice_api, schedule="30 9 * * *", timezone="Europe/Paris", count=3).json()
    assert body == {
        "status": "success",
        "schedule": "30 9 * * *",
        "timezone": "Europe/Paris",
        "description": "At 09:30 AM",
        "upcoming": [
            {"utc": "2026-10-24T07:30:00.000Z", "local": "2026-10-24T09:30:00+02:00"},
            {"utc": "2026-10-25T08:30:00.000Z", "local": "2026-10-25T09:30:00+01:00"},
            {"utc": "2026-10-26T08:30:00.000Z", "local": "2026-10-26T09:30:00+01:00"},
        ],
    }


@pytest.mark.parametrize(("count", "shown"), [(None, 10), ("1", 1), ("100", 100)])
def test_how_many(alice_api: ContractClient, count: str | None, shown: int) -> None:
    query = {"schedule": "* * * * *"} if count is None else {"schedule": "* * * * *", "count": count}
    upcoming = ask(alice_api, **query).json()["upcoming"]
    assert len(upcoming) == shown
    assert upcoming == sorted(upcoming, key=lambda time: datetime.fromisoformat(time["local"]))


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({}, "schedule is required"),
        ({"schedule": ""}, "schedule is empty"),
        ({"schedule": "0 9 * * *", "count": "0"}, "count must be a whole number from 1 to 100"),
        ({"schedule": "0 9 * * *", "count": "101"}, "count must be"),
        ({"schedule": "0 9 * * *", "count": "1_0"}, "count must be"),
        ({"schedule": "0 9 * * *", "cron": "x"}, "Unknown parameter 'cron'"),
        ({"schedule": ["0 9 * * *", "1 1 * * *"]}, "schedule was given 2 times"),
    ],
)
def test_what_is_wrong_with_the_question_is_named(alice_api: ContractClient, query: Any, named: str) -> None:
    response = ask(alice_api, **query)
    assert (response.status_code, named in response.json()["message"]) == (400, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "0 24 * * *"},
        {"schedule": "@daily"},
        {"schedule": "0 0 30 2 *"},
        {"schedule": "0 9 * * L"},
        {"schedule": "0  9 * * *"},
        {"schedule": " "},
        {"schedule": "0 9 * * *", "timezone": "Mars/Base"},
        {"schedule": "0 9 * * *", "timezone": "Etc/GMT+12"},
        {"schedule": "x\x00y"},
    ],
)
def test_it_refuses_what_a_create_refuses_with_the_same_answer(alice_api: ContractClient, wrong: Any) -> None:
    task = {"title": "t", "prompt": "p", "artist_account_id": "3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11", **wrong}
    create, preview = alice_api.post("/api/tasks", task, format="json"), ask(alice_api, **wrong)
    assert (preview.status_code, preview.json()) == (400, create.json())


@pytest.mark.parametrize("schedule", ["0 *,* * * *", "0 9 * * *,*", "*,*,47-53 *,*/2,3-5 */2 */40,* */2"])
def test_what_the_library_has_no_words_for_is_shown_as_it_is(
    alice_api: ContractClient, cast: Cast, admin_client: Client, schedule: str
) -> None:
    assert ask(alice_api, schedule=schedule).json()["description"] == schedule
    make_task(cast.alice, cast.artist, schedule=schedule)
    assert admin_client.get("/admin/tasks/task/").status_code == 200


def test_it_needs_a_credential(anonymous_api: ContractClient) -> None:
    assert ask(anonymous_api, schedule="0 9 * * *").status_code == 401


def test_it_asks_nobody_and_writes_nothing(
    alice_api: ContractClient, trigger: Standin, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    ask(alice_api, schedule="0 9 * * *")  # notes the use of the key, as any request does once a minute
    used = ApiKey.objects.get().last_used_at
    with django_assert_num_queries(1):
        ask(alice_api, schedule="0 9 * * *")
    assert (trigger.asked["all"], ApiKey.objects.get().last_used_at) == (0, used)
