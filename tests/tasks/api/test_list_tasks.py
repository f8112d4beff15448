import gc
import weakref
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.urls import resolve
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings
from rest_framework.test import APIRequestFactory, force_authenticate

from accounts.models import AccountEmail
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.models import Task
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, later, with_key

SCHEDULE = "sched_of_the_weekly_report"


def list_tasks(api: ContractClient, query: str = "") -> list[dict[str, Any]]:
    response = api.get(f"/api/tasks{query}")
    assert response.status_code == 200, response.content
    tasks: list[dict[str, Any]] = response.json()["tasks"]
    return tasks


def add_scheduled_run(trigger: Standin, *, age: timedelta = timedelta(hours=1), **fields: Any) -> StandinRun:
    created = (trigger.state.clock() - age).timestamp()
    run = StandinRun("customer-prompt-task", created, kind="SCHEDULED", schedule={"id": SCHEDULE}, **fields)
    return trigger.state.add_run(run)


def test_a_task_has_all_its_fields(alice_api: ContractClient, cast: Cast) -> None:
    created_at = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    task = make_task(
        cast.alice, cast.artist, created_at=created_at, enabled=False, model="gpt-5", timezone="Asia/Kolkata"
    )
    (shown,) = list_tasks(alice_api)
    timestamps = shown.pop("updated_at"), shown.pop("runs_as_of")
    assert all(text.endswith("Z") and len(text) == 24 for text in timestamps)
    assert shown == {
        "id": str(task.pk),
        "title": "Weekly report",
        "prompt": "Write it.",
        "schedule": "0 9 * * *",
        "timezone": "Asia/Kolkata",
        "account_id": str(cast.alice.pk),
        "artist_account_id": str(cast.artist.pk),
        "artist_name": "The Artist",
        "enabled": False,
        "model": "gpt-5",
        "owner_email": "alice@example.com",
        "created_at": "2026-03-01T12:00:00.123Z",
        "trigger_schedule_id": None,
        "sync_status": "in_sync",
        "recent_runs": [],
        "runs_status": "fresh",
        "trigger_lookup_failed": False,
        "upcoming": [],
    }


def test_a_successful_response_has_no_error_key(alice_api: ContractClient) -> None:
    assert alice_api.get("/api/tasks").json() == {"status": "success", "tasks": []}


def test_a_trailing_slash_makes_no_difference(alice_api: ContractClient) -> None:
    assert alice_api.get("/api/tasks/").json() == {"status": "success", "tasks": []}


def test_tasks_are_listed_newest_first(alice_api: ContractClient, cast: Cast) -> None:
    now = timezone.now()
    for days, title in ((2, "older"), (0, "newest"), (1, "newer")):
        make_task(cast.alice, cast.artist, title=title, created_at=now - timedelta(days=days))
    assert [task["title"] for task in list_tasks(alice_api)] == ["newest", "newer", "older"]


def test_a_deleted_task_is_not_listed_nor_found_by_id(alice_api: ContractClient, cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, deleted_at=timezone.now(), title="", prompt="")
    assert list_tasks(alice_api) == list_tasks(alice_api, f"?id={task.pk}") == []


def test_filters_are_combined_with_and(alice_api: ContractClient, cast: Cast) -> None:
    wanted = make_task(cast.alice, cast.artist, title="wanted")
    make_task(cast.alice, cast.bob, title="other artist")
    assert [task["title"] for task in list_tasks(alice_api, f"?artist_account_id={cast.artist.pk}")] == ["wanted"]
    assert list_tasks(alice_api, f"?id={wanted.pk}&artist_account_id={cast.bob.pk}") == []


def test_filtering_by_artist_shows_no_tasks_of_other_accounts(alice_api: ContractClient, cast: Cast) -> None:
    make_task(cast.charlie, cast.artist)
    assert list_tasks(alice_api, f"?artist_account_id={cast.artist.pk}") == []


@pytest.mark.parametrize(("value", "titles"), [("true", {"on", "null"}), ("false", {"off"})])
def test_the_enabled_filter_separates_running_from_paused_tasks(
    alice_api: ContractClient, cast: Cast, value: str, titles: set[str]
) -> None:
    for title, enabled in (("on", True), ("off", False), ("null", None)):
        make_task(cast.alice, cast.artist, title=title, enabled=enabled)
    assert {task["title"] for task in list_tasks(alice_api, f"?enabled={value}")} == titles


def test_owner_email_is_the_first_email_of_the_owner_or_null(alice_api: ContractClient, cast: Cast) -> None:
    AccountEmail.objects.create(account=cast.alice, email="another@example.com")
    make_task(cast.alice, cast.artist)
    assert list_tasks(alice_api)[0]["owner_email"] == "alice@example.com"
    AccountEmail.objects.filter(account=cast.alice).delete()
    assert list_tasks(alice_api)[0]["owner_email"] is None


def test_parameters_that_begin_with_underscore_or_utm_are_ignored(alice_api: ContractClient) -> None:
    assert list_tasks(alice_api, "?_=1&_x=&utm_source=mail&utm_source=twice") == []


# --- Runs ------------------------------------------------------------------------------------------------------------


def test_recent_runs_are_the_five_newest_runs_of_the_schedule(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    added = [add_scheduled_run(trigger, age=timedelta(hours=hours)) for hours in range(1, 8)]
    (task,) = list_tasks(alice_api)
    assert [run["id"] for run in task["recent_runs"]] == [run.id for run in added[:5]]
    assert task["recent_runs"][0]["taskKind"] == "SCHEDULED"
    assert task["runs_status"] == "fresh"


def test_a_20_day_old_run_is_shown(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE, schedule="0 6 1 * *")
    run = add_scheduled_run(trigger, age=timedelta(days=20))
    assert [shown["id"] for shown in list_tasks(alice_api)[0]["recent_runs"]] == [run.id]


def test_a_run_with_the_account_tag_of_another_account_is_not_shown(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    add_scheduled_run(trigger, tags=[f"account:{cast.charlie.pk}"])
    add_scheduled_run(trigger, tags=["account:nobody"])
    own = add_scheduled_run(trigger, tags=[f"account:{cast.alice.pk}", f"account:{cast.charlie.pk}"])
    assert [run["id"] for run in list_tasks(alice_api)[0]["recent_runs"]] == [own.id]


def test_recent_runs_leave_out_payload_output_and_other_details(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    add_scheduled_run(trigger, payload={"secret": 1}, has_output=True, output="x")
    (run,) = list_tasks(alice_api)[0]["recent_runs"]
    assert not run.keys() & {"payload", "output", "error", "attempts", "schedule", "relatedRuns"}


@pytest.mark.parametrize(
    "fault", [Fault("status", status=500), Fault("hang"), Fault("reset"), Fault("garbage"), Fault("rate_limit")]
)
def test_with_trigger_failing_and_an_empty_cache_the_runs_are_unavailable(
    alice_api: ContractClient, cast: Cast, trigger: Standin, fault: Fault
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    trigger.faults.add(fault)
    (task,) = list_tasks(alice_api)
    assert (task["recent_runs"], task["runs_status"], task["runs_as_of"]) == ([], "unavailable", None)
    assert task["trigger_lookup_failed"]
    assert len(task["upcoming"]) == 10


def test_with_trigger_failing_the_stored_runs_are_shown_as_stale(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE, schedule="* * * * *")
    run = add_scheduled_run(trigger)
    runs_as_of = list_tasks(alice_api)[0]["runs_as_of"]
    trigger.faults.add(Fault("status", status=500))
    with later(hours=24):
        for _ in range(3):
            (task,) = list_tasks(alice_api)
            assert ([shown["id"] for shown in task["recent_runs"]], task["runs_status"]) == ([run.id], "stale")
    until_next_fire = datetime.fromisoformat(task["runs_as_of"]) - datetime.fromisoformat(runs_as_of)
    assert timedelta() <= until_next_fire <= timedelta(minutes=1)


def test_one_failed_call_makes_only_its_own_task_unavailable(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    for name in ("one", "two", "three"):
        make_task(cast.alice, cast.artist, title=name, trigger_schedule_id=f"sched_{name}")
    trigger.faults.add(Fault("status", status=401, times=1))
    assert sorted(task["runs_status"] for task in list_tasks(alice_api)) == ["fresh", "fresh", "unavailable"]


# --- Upcoming times --------------------------------------------------------------------------------------------------


@time_machine.travel(datetime(2026, 11, 22, 12, tzinfo=UTC), tick=False)
def test_a_task_without_runs_shows_its_next_ten_times(alice_api: ContractClient, cast: Cast) -> None:
    make_task(cast.alice, cast.artist)
    (task,) = list_tasks(alice_api)
    assert task["upcoming"][:2] == ["2026-11-23T09:00:00.000Z", "2026-11-24T09:00:00.000Z"]
    assert len(task["upcoming"]) == 10


@pytest.mark.parametrize("fields", [{"enabled": False}, {"refused_generation": 1}, {"schedule": "never"}])
def test_a_paused_refused_or_invalid_task_has_no_upcoming_times(
    alice_api: ContractClient, cast: Cast, fields: dict[str, Any]
) -> None:
    make_task(cast.alice, cast.artist, **fields)
    assert list_tasks(alice_api)[0]["upcoming"] == []


def test_an_edited_task_shows_the_times_of_its_new_schedule_at_once(alice_api: ContractClient, cast: Cast) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    with time_machine.travel(datetime(2026, 11, 22, 12, tzinfo=UTC), tick=False):
        assert list_tasks(alice_api)[0]["upcoming"][0] == "2026-11-23T09:00:00.000Z"
        Task.objects.update(schedule="30 7 * * *", timezone="Asia/Kolkata")
        assert list_tasks(alice_api)[0]["upcoming"][0] == "2026-11-23T02:00:00.000Z"


def test_a_time_that_has_passed_is_not_upcoming(alice_api: ContractClient, cast: Cast) -> None:
    make_task(cast.alice, cast.artist)
    with time_machine.travel(datetime(2026, 11, 22, 8, 59, 59, tzinfo=UTC), tick=False) as clock:
        assert list_tasks(alice_api)[0]["upcoming"][0] == "2026-11-22T09:00:00.000Z"
        clock.shift(1)
        assert list_tasks(alice_api)[0]["upcoming"][0] == "2026-11-23T09:00:00.000Z"


# --- Cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 30])
@pytest.mark.parametrize("owner", ["own", "shared"])
def test_a_list_of_any_length_costs_three_queries_or_five(
    cast: Cast, django_assert_num_queries: DjangoAssertNumQueries, count: int, owner: str
) -> None:
    for number in range(count):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    reader = with_key(make_key(cast.alice if owner == "own" else cast.bob))
    # The first poll of each task, and two writes once per minute: last_used_at of the key, watched_until of the tasks.
    list_tasks(reader, f"?account_id={cast.alice.pk}")
    # 1. the key with its account  2. the shared list of unfinished runs  3. the tasks with artist and owner's email
    # for another account's tasks: 4. whether the caller is an admin  5. whether they share an organization
    with django_assert_num_queries(3 if owner == "own" else 5):
        assert len(list_tasks(reader, f"?account_id={cast.alice.pk}")) == count


def test_a_list_calls_trigger_once_per_scheduled_task(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    for number in range(10):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}" if number < 7 else None)
    list_tasks(alice_api)
    assert trigger.asked["all"] == trigger.asked["GET /api/v1/runs"] == 7


def test_head_validates_and_does_not_call_trigger(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    assert alice_api.head("/api/tasks").status_code == 200
    assert alice_api.head("/api/tasks/runs?runId=run_x").status_code == 200
    assert alice_api.head("/api/tasks?id=x").status_code == 400
    assert alice_api.head(f"/api/tasks?account_id={cast.charlie.pk}").status_code == 403
    assert ContractClient().head("/api/tasks").status_code == 401
    assert trigger.asked["all"] == 0


def test_past_the_request_deadline_the_runs_are_unavailable(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    settings.REQUEST_DEADLINE = 0.0
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    assert list_tasks(alice_api)[0]["runs_status"] == "unavailable"


def test_the_list_uses_its_database_index(cast: Cast) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL chooses the plan by the size of the table")
    plan = Task.objects.living().filter(account=cast.alice).explain()
    assert "task_list" in plan
    assert "TEMP B-TREE" not in plan, "the index provides the order"


def test_an_answer_is_gone_once_it_is_sent(cast: Cast) -> None:
    """A list can have megabytes, and a full garbage collection comes after dozens of requests."""
    request = APIRequestFactory().get("/api/tasks")
    user: Any = cast.alice
    force_authenticate(request, user)
    gc.disable()
    try:
        answer = weakref.ref(resolve("/api/tasks").func(request))
        assert answer() is None
    finally:
        gc.enable()
