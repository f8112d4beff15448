"""A list of tasks read page by page."""

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


def page(api: ContractClient, **query: Any) -> Any:
    response = api.get(PATH, query)
    assert response.status_code == 200, response.content
    return response.json()


def pages(api: ContractClient, **query: Any) -> list[list[str]]:
    """The ids of each page, to the last."""
    found, cursor = [], None
    while True:
        body = page(api, **query, **({"cursor": cursor} if cursor else {}))
        found.append([task["id"] for task in body["tasks"]])
        cursor = body["next_cursor"]
        if cursor is None:
            return found


def make_many(cast: Cast, count: int) -> None:
    """In threes at the same moment, so that the order needs the id."""
    now = timezone.now()
    for number in range(count):
        make_task(cast.alice, cast.artist, title=f"{number}", created_at=now - timedelta(seconds=number // 3))


@pytest.mark.parametrize(("count", "limit"), [(0, 5), (1, 1), (5, 5), (7, 3), (9, 3), (10, 100)])
def test_the_pages_together_are_the_list(alice_api: ContractClient, cast: Cast, count: int, limit: int) -> None:
    make_many(cast, count)
    whole = [task["id"] for task in page(alice_api)["tasks"]]
    read = pages(alice_api, limit=limit)
    assert [task_id for ids in read for task_id in ids] == whole
    assert [len(ids) for ids in read[:-1]] == [limit] * (len(read) - 1)
    assert len(read) == max(1, -(-count // limit))


def test_without_a_limit_everything_comes_as_published(alice_api: ContractClient, cast: Cast) -> None:
    make_many(cast, 120)
    body = page(alice_api)
    assert (len(body["tasks"]), "next_cursor" in body) == (120, False)
    cursor = page(alice_api, limit=20)["next_cursor"]
    assert len(page(alice_api, cursor=cursor)["tasks"]) == 100


def test_filters_hold_on_every_page(alice_api: ContractClient, cast: Cast) -> None:
    for number in range(9):
        make_task(cast.alice, cast.artist, enabled=number % 2 == 0)
        make_task(cast.bob, cast.artist)
    read = pages(alice_api, limit=2, enabled="true")
    assert [len(ids) for ids in read] == [2, 2, 1]
    assert sum(map(len, pages(alice_api, limit=2, account_id=str(cast.bob.pk)))) == 9


def test_a_cursor_opens_nothing_that_is_not_the_callers(alice_api: ContractClient, cast: Cast) -> None:
    """It is a place in a list, and whose list that is the request decides."""
    make_many(cast, 4)
    for number in range(3):
        make_task(cast.charlie, cast.artist, created_at=timezone.now() - timedelta(days=number))
    cursor = page(alice_api, limit=1)["next_cursor"]
    shown = page(with_key(make_key(cast.charlie)), cursor=cursor, limit=50)["tasks"]
    assert {task["account_id"] for task in shown} == {str(cast.charlie.pk)}


def test_an_admin_finds_any_task_by_id_page_or_not(dora_api: ContractClient, cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    body = page(dora_api, id=str(task.pk), limit=5)
    assert ([shown["id"] for shown in body["tasks"]], body["next_cursor"]) == ([str(task.pk)], None)
    assert page(dora_api, limit=5)["tasks"] == []


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%00",
        "é",
        "=" * 8,
        "A" * 10_000,
        encoded("1.2"),
        encoded(f"x.{UUID(int=0)}"),
        encoded(f"{10**30}.{UUID(int=0)}"),
        encoded(f"-{10**30}.{UUID(int=0)}"),
        encoded(f"1_0.{UUID(int=0)}"),
        encoded(f"{'9' * 60}"),
        encoded(f"1.{UUID(int=0).hex}"),
        encoded(f"1.{{{UUID(int=0)}}}"),
        encoded(f"1.{UUID(int=0)}") + "==",
    ],
)
def test_what_is_no_cursor_is_a_400_that_says_so(alice_api: ContractClient, cursor: str) -> None:
    response = alice_api.get(PATH, {"limit": "5", "cursor": cursor})
    assert response.status_code == 400
    assert response.json()["message"].startswith("cursor must be the next_cursor of an earlier answer")


@pytest.mark.parametrize("moment", [0, -1, 1, 253402300799999999, -62135596800000000])
def test_a_cursor_of_any_moment_of_the_calendar_is_one(alice_api: ContractClient, cast: Cast, moment: int) -> None:
    make_many(cast, 1)
    body = page(alice_api, limit=5, cursor=encoded(f"{moment}.{UUID(int=5)}"))
    assert len(body["tasks"]) == (1 if moment > 10**15 else 0)


@pytest.mark.parametrize("seed", range(5))
def test_while_tasks_come_and_go_nothing_comes_twice_and_nothing_that_stays_is_missing(
    alice_api: ContractClient, cast: Cast, seed: int
) -> None:
    chance = random.Random(seed)
    make_many(cast, 40)
    there = [str(pk) for pk in Task.objects.living().values_list("pk", flat=True)]
    deleted, seen, cursor = set[str](), list[str](), None
    while True:
        body = page(alice_api, limit=chance.randint(1, 6), **({"cursor": cursor} if cursor else {}))
        seen += [task["id"] for task in body["tasks"]]
        cursor = body["next_cursor"]
        if cursor is None:
            break
        for _ in range(chance.randint(0, 3)):
            make_task(cast.alice, cast.artist, created_at=timezone.now() - timedelta(seconds=chance.randint(0, 20)))
        # The one that the cursor names goes too.
        for task_id in {seen[-1], chance.choice(there)} - deleted if chance.random() < 0.5 else ():
            alice_api.delete(PATH, {"id": task_id}, format="json")
            deleted.add(task_id)
    assert len(seen) == len(set(seen))
    assert set(there) - deleted <= set(seen)


def test_what_is_wrong_is_said_before_what_is_not_allowed(alice_api: ContractClient, cast: Cast) -> None:
    for wrong in ("limit=0", "cursor=zz", "limit=1&limit=2", "cursor="):
        response = alice_api.get(f"{PATH}?account_id={cast.charlie.pk}&{wrong}")
        assert (response.status_code, response.json()["message"].split()[0]) == (400, wrong.split("=")[0])


def test_a_page_asks_trigger_for_its_own_tasks_only(alice_api: ContractClient, cast: Cast, trigger: Any) -> None:
    for number in range(10):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    page(alice_api, limit=3)
    assert trigger.asked["all"] == 3
