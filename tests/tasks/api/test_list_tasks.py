from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from accounts.models import AccountEmail
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.gateway import upstream
from tasks.models import Task
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, later, with_key

SCHEDULE = "sched_of_the_weekly_report"
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


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
    assert len(task["upcoming"]) == 10


def test_with_trigger_failing_the_cached_runs_are_shown_as_stale(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    run = add_scheduled_run(trigger)
    runs_as_of = list_tasks(alice_api)[0]["runs_as_of"]
    trigger.faults.add(Fault("status", status=500))
    with later(hours=1):
        (task,) = list_tasks(alice_api)
    assert ([shown["id"] for shown in task["recent_runs"]], task["runs_status"]) == ([run.id], "stale")
    assert task["runs_as_of"] == runs_as_of


def test_one_failed_call_makes_only_its_own_task_unavailable(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    for name in ("one", "two", "three"):
        make_task(cast.alice, cast.artist, title=name, trigger_schedule_id=f"sched_{name}")
    trigger.faults.add(Fault("status", status=401, times=1))
    assert sorted(task["runs_status"] for task in list_tasks(alice_api)) == ["fresh", "fresh", "unavailable"]


# --- Upcoming times --------------------------------------------------------------------------------------------------


def payload(*, timestamp: str, upcoming: list[str], zone: str = "UTC") -> dict[str, Any]:
    return {"scheduleId": SCHEDULE, "timestamp": timestamp, "timezone": zone, "upcoming": upcoming}


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


@time_machine.travel(datetime(2026, 11, 22, 12, tzinfo=UTC), tick=False)
def test_upcoming_comes_from_the_payload_of_the_newest_run_without_past_times(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE, schedule_changed_at=NEW_YEAR)
    newest = payload(
        timestamp="2026-11-22T09:00:00.000Z", upcoming=["2026-11-22T11:00:00.000Z", "2026-11-23T09:30:00.000Z"]
    )
    add_scheduled_run(trigger, payload=newest)
    assert len(list_tasks(alice_api)[0]["upcoming"]) == 10, "computed, because the payload is fetched in the background"
    upstream.finish()
    assert list_tasks(alice_api)[0]["upcoming"] == ["2026-11-23T09:30:00.000Z"]


@pytest.mark.parametrize(
    "fields",
    [
        {"timezone": "Europe/Paris"},
        {"schedule_changed_at": datetime(2026, 11, 22, 10, tzinfo=UTC)},
    ],
)
@time_machine.travel(datetime(2026, 11, 22, 12, tzinfo=UTC), tick=False)
def test_an_edited_task_never_shows_an_upcoming_time_of_its_old_schedule(
    alice_api: ContractClient, cast: Cast, trigger: Standin, fields: dict[str, Any]
) -> None:
    edited = {"schedule_changed_at": NEW_YEAR, **fields}
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE, **edited)
    add_scheduled_run(
        trigger, payload=payload(timestamp="2026-11-22T09:00:00.000Z", upcoming=["2026-11-22T13:37:00.000Z"])
    )
    list_tasks(alice_api)
    upstream.finish()
    assert "2026-11-22T13:37:00.000Z" not in list_tasks(alice_api)[0]["upcoming"]


PAYLOADS = {
    "scheduled run": payload(timestamp="2026-11-22T09:00:00.000Z", upcoming=[]),
    "no schedule": {"prompt": "hello"},
    "no time zone": payload(timestamp="2026-11-22T09:00:00", upcoming=["2026-11-22T10:00:00"]),
    "no payload": None,
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payload_of_a_run_is_fetched_only_once(
    alice_api: ContractClient, cast: Cast, trigger: Standin, name: str
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE, schedule_changed_at=NEW_YEAR)
    add_scheduled_run(trigger, payload=PAYLOADS[name])
    for _ in range(3):
        list_tasks(alice_api)
        upstream.finish()
    assert trigger.asked["GET /api/v3/runs/{id}"] == 1


def test_a_failed_background_refresh_of_a_payload_is_not_repeated_by_every_request(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE)
    add_scheduled_run(trigger)
    trigger.faults.add(Fault("hang", path="/api/v3/*"))
    for _ in range(5):
        assert list_tasks(alice_api)[0]["runs_status"] == "fresh"
    upstream.finish()
    assert trigger.asked["GET /api/v3/runs/{id}"] == 1


def test_a_disagreement_between_trigger_and_what_is_computed_is_logged(
    alice_api: ContractClient, cast: Cast, trigger: Standin, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id=SCHEDULE, schedule_changed_at=NEW_YEAR)
    newest = payload(timestamp="2026-11-22T09:00:00.000Z", upcoming=["2026-11-22T13:37:00.000Z"])
    add_scheduled_run(trigger, payload=newest)
    list_tasks(alice_api)
    upstream.finish()
    assert f"Task {task.pk}: Trigger.dev says it fires at other times" in caplog.text
    assert "(1 times so far)" in caplog.text


# --- Cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 30])
@pytest.mark.parametrize("owner", ["own", "shared"])
def test_a_list_of_any_length_costs_at_most_four_queries(
    cast: Cast, django_assert_num_queries: DjangoAssertNumQueries, count: int, owner: str
) -> None:
    for number in range(count):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    reader = with_key(make_key(cast.alice if owner == "own" else cast.bob))
    reader.get("/api/tasks")  # updates last_used_at of the key, a write that happens once per minute
    # 1. the key with its account  2. the tasks with their artist and the owner's email
    # for another account's tasks: 3. whether the caller is an admin  4. whether they share an organization
    with django_assert_num_queries(2 if owner == "own" else 4):
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
