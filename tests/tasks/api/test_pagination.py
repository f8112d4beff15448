"""GET /api/tasks: pagination with a cursor."""

import base64
import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from tasks.models import Task
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

PATH = "/api/tasks"


def get_page(api: ContractClient, **query: Any) -> Any:
    response = api.get(PATH, query)
    assert response.status_code == 200, response.content
    return response.json()


def get_all_pages(api: ContractClient, **query: Any) -> list[list[str]]:
    """The task ids of each page, up to the last page."""
    ids_by_page, cursor = [], None
    while True:
        body = get_page(api, **query, **({"cursor": cursor} if cursor else {}))
        ids_by_page.append([task["id"] for task in body["tasks"]])
        cursor = body["next_cursor"]
        if cursor is None:
            return ids_by_page


def make_tasks(cast: Cast, count: int) -> None:
    """Three tasks share each created_at, so that the order depends on the id."""
    now = timezone.now()
    for number in range(count):
        make_task(cast.alice, cast.artist, title=f"{number}", created_at=now - timedelta(seconds=number // 3))


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (1, 1), (5, 5), (7, 3), (9, 3), (10, 100)])
def test_all_pages_together_are_the_unpaginated_list(
    alice_api: ContractClient, cast: Cast, count: int, limit: int
) -> None:
    make_tasks(cast, count)
    whole = [task["id"] for task in get_page(alice_api)["tasks"]]
    read = get_all_pages(alice_api, limit=limit)
    assert [task_id for ids in read for task_id in ids] == whole
    assert [len(ids) for ids in read[:-1]] == [limit] * (len(read) - 1)
    assert len(read) == max(1, -(-count // limit))


def test_without_limit_and_cursor_the_list_is_not_paginated(alice_api: ContractClient, cast: Cast) -> None:
    make_tasks(cast, 120)
    body = get_page(alice_api)
    assert (len(body["tasks"]), "next_cursor" in body) == (120, False)
    cursor = get_page(alice_api, limit=20)["next_cursor"]
    assert len(get_page(alice_api, cursor=cursor)["tasks"]) == 100


def test_filters_apply_to_every_page(alice_api: ContractClient, cast: Cast) -> None:
    for number in range(9):
        make_task(cast.alice, cast.artist, enabled=number % 2 == 0)
        make_task(cast.bob, cast.artist)
    read = get_all_pages(alice_api, limit=2, enabled="true")
    assert [len(ids) for ids in read] == [2, 2, 1]
    assert sum(map(len, get_all_pages(alice_api, limit=2, account_id=str(cast.bob.pk)))) == 9


def test_a_cursor_of_another_account_does_not_show_its_tasks(alice_api: ContractClient, cast: Cast) -> None:
    """A cursor is only a position in a list. The request decides whose list it is."""
    make_tasks(cast, 4)
    for number in range(3):
        make_task(cast.charlie, cast.artist, created_at=timezone.now() - timedelta(days=number))
    cursor = get_page(alice_api, limit=1)["next_cursor"]
    shown = get_page(with_key(make_key(cast.charlie)), cursor=cursor, limit=50)["tasks"]
    assert {task["account_id"] for task in shown} == {str(cast.charlie.pk)}


def test_an_admin_finds_any_task_by_id_with_pagination(dora_api: ContractClient, cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    body = get_page(dora_api, id=str(task.pk), limit=5)
    assert ([shown["id"] for shown in body["tasks"]], body["next_cursor"]) == ([str(task.pk)], None)
    assert get_page(dora_api, limit=5)["tasks"] == []


def encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%00",
        "é",
        "=" * 8,
        "A" * 10_000,
        encode("1.2"),
        encode(f"x.{UUID(int=0)}"),
        encode(f"{10**30}.{UUID(int=0)}"),
        encode(f"-{10**30}.{UUID(int=0)}"),
        encode(f"1_0.{UUID(int=0)}"),
        encode(f"{'9' * 60}"),
        encode(f"1.{UUID(int=0).hex}"),
        encode(f"1.{{{UUID(int=0)}}}"),
        encode(f"1.{UUID(int=0)}") + "==",
    ],
)
def test_an_invalid_cursor_is_a_400(alice_api: ContractClient, cursor: str) -> None:
    response = alice_api.get(PATH, {"limit": "5", "cursor": cursor})
    assert response.status_code == 400
    assert response.json()["message"].startswith("cursor must be the next_cursor of an earlier answer")


@pytest.mark.parametrize("timestamp", [0, -1, 1, 253402300799999999, -62135596800000000])
def test_a_cursor_with_any_timestamp_of_the_calendar_is_valid(
    alice_api: ContractClient, cast: Cast, timestamp: int
) -> None:
    make_tasks(cast, 1)
    body = get_page(alice_api, limit=5, cursor=encode(f"{timestamp}.{UUID(int=5)}"))
    assert len(body["tasks"]) == (1 if timestamp > 10**15 else 0)


@pytest.mark.parametrize("seed", range(5))
def test_while_tasks_are_created_and_deleted_no_page_repeats_a_task_or_skips_one_that_stays(
    alice_api: ContractClient, cast: Cast, seed: int
) -> None:
    rng = random.Random(seed)
    make_tasks(cast, 40)
    existing = [str(pk) for pk in Task.objects.living().values_list("pk", flat=True)]
    deleted, seen, cursor = set[str](), list[str](), None
    while True:
        body = get_page(alice_api, limit=rng.randint(1, 6), **({"cursor": cursor} if cursor else {}))
        seen += [task["id"] for task in body["tasks"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
        for _ in range(rng.randint(0, 3)):
            make_task(cast.alice, cast.artist, created_at=timezone.now() - timedelta(seconds=rng.randint(0, 20)))
        # Sometimes also deletes the task that the cursor points to.
        for task_id in {seen[-1], rng.choice(existing)} - deleted if rng.random() < 0.5 else ():
            alice_api.delete(PATH, {"id": task_id}, format="json")
            deleted.add(task_id)
    assert len(seen) == len(set(seen))
    assert set(existing) - deleted <= set(seen)


def test_an_invalid_parameter_is_a_400_before_access_is_checked(alice_api: ContractClient, cast: Cast) -> None:
    for invalid in ("limit=0", "cursor=zz", "limit=1&limit=2", "cursor="):
        response = alice_api.get(f"{PATH}?account_id={cast.charlie.pk}&{invalid}")
        assert (response.status_code, response.json()["message"].split()[0]) == (400, invalid.split("=")[0])


def test_a_page_calls_trigger_only_for_its_own_tasks(alice_api: ContractClient, cast: Cast, trigger: Any) -> None:
    for number in range(10):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    get_page(alice_api, limit=3)
    assert trigger.asked["all"] == 3
