"""GET /api/tasks/preview: the next times of a schedule, or the same 400 as POST /api/tasks."""

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


def get_preview(api: ContractClient, **query: Any) -> Any:
    return api.get(PATH, query)


@time_machine.travel("2026-10-23 12:00:00Z", tick=False)
def test_the_next_times_in_utc_and_local_time_across_the_end_of_daylight_saving_time(alice_api: ContractClient) -> None:
    body = get_preview(alice_api, schedule="30 9 * * *", timezone="Europe/Paris", count=3).json()
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
        "warnings": [],
    }


@time_machine.travel("2026-07-01 12:00:00Z", tick=False)
@pytest.mark.parametrize(
    ("zone", "local", "warning"),
    [
        ("EST", "2026-07-01T09:30:00-05:00", "The time zone EST is UTC-05:00 all year, in summer too."),
        ("Etc/GMT+5", "2026-07-01T09:30:00-05:00", "The time zone Etc/GMT+5 is UTC-05:00 all year"),
        ("Etc/GMT-14", "2026-07-02T09:30:00+14:00", "The time zone Etc/GMT-14 is UTC+14:00 all year"),
        ("EST5EDT", "2026-07-01T09:30:00-04:00", None),
        ("UTC", "2026-07-02T09:30:00+00:00", None),
    ],
)
def test_a_zone_without_summer_time_has_a_warning(
    alice_api: ContractClient, zone: str, local: str, warning: str | None
) -> None:
    body = get_preview(alice_api, schedule="30 9 * * *", timezone=zone, count=1).json()
    assert body["upcoming"][0]["local"] == local
    assert [text[: len(warning or "")] for text in body["warnings"]] == ([warning] if warning else [])


def test_a_schedule_too_rare_to_find_all_wanted_times_says_so(alice_api: ContractClient) -> None:
    body = get_preview(alice_api, schedule="0 0 15 2 1#5", count=100).json()
    assert len(body["upcoming"]) < 10
    assert body["warnings"] == [
        f"The schedule is so rare that the search ended after {len(body['upcoming'])} of 100 times."
    ]


@pytest.mark.parametrize(("count", "expected"), [(None, 10), ("1", 1), ("100", 100)])
def test_count_sets_the_number_of_upcoming_times(alice_api: ContractClient, count: str | None, expected: int) -> None:
    query = {"schedule": "* * * * *"} if count is None else {"schedule": "* * * * *", "count": count}
    upcoming = get_preview(alice_api, **query).json()["upcoming"]
    assert len(upcoming) == expected
    assert upcoming == sorted(upcoming, key=lambda time: datetime.fromisoformat(time["local"]))


@pytest.mark.parametrize(
    ("query", "message"),
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
def test_an_invalid_query_is_a_400_that_names_the_mistake(alice_api: ContractClient, query: Any, message: str) -> None:
    response = get_preview(alice_api, **query)
    assert (response.status_code, message in response.json()["message"]) == (400, True)


@pytest.mark.parametrize(
    "invalid",
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
def test_preview_and_create_reject_an_invalid_schedule_or_time_zone_with_the_same_400(
    alice_api: ContractClient, invalid: Any
) -> None:
    task = {"title": "t", "prompt": "p", "artist_account_id": "3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11", **invalid}
    create, preview = alice_api.post("/api/tasks", task, format="json"), get_preview(alice_api, **invalid)
    assert (preview.status_code, preview.json()) == (400, create.json())


@pytest.mark.parametrize("schedule", ["0 9 15,L * *", "0 9 */2 * *", "*,*,47-53 *,*/2,3-5 */2 */40,* */2"])
def test_a_cron_expression_without_a_description_is_shown_unchanged(
    alice_api: ContractClient, cast: Cast, admin_client: Client, schedule: str
) -> None:
    assert get_preview(alice_api, schedule=schedule).json()["description"] == schedule
    make_task(cast.alice, cast.artist, schedule=schedule)
    assert admin_client.get("/admin/tasks/task/").status_code == 200


def test_preview_requires_authentication(anonymous_api: ContractClient) -> None:
    assert get_preview(anonymous_api, schedule="0 9 * * *").status_code == 401


def test_preview_does_not_call_trigger_and_costs_one_query(
    alice_api: ContractClient, trigger: Standin, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    get_preview(alice_api, schedule="0 9 * * *")  # updates last_used_at of the key, at most once per minute
    last_used_at = ApiKey.objects.get().last_used_at
    with django_assert_num_queries(1):
        get_preview(alice_api, schedule="0 9 * * *")
    assert (trigger.asked["all"], ApiKey.objects.get().last_used_at) == (0, last_used_at)
