"""POST /api/tasks/runs: one run of a task now, outside its schedule, and remembered."""

from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Membership
from core.text import format_timestamp
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks import cron
from tasks.gateway import upstream
from tasks.models import RunRequest, Task
from tasks.runs import run_now
from tasks.runs.enrichment import joint_status
from tasks.runs.known import RunsStatus
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

PATH = "/api/tasks/runs"
TRIGGER = "POST /api/v1/tasks/{id}/trigger"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def task(cast: Cast) -> Task:
    return make_task(cast.alice, cast.artist, trigger_schedule_id="sched_alices", timezone="Asia/Kolkata")


def start(api: ContractClient, task: Task, key: str = "", **fields: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return api.post(PATH, {"id": str(task.pk), **fields}, format="json", headers=headers)


def started(response: Any) -> Any:
    assert response.status_code == 200, response.content
    (run,) = response.json()["runs"]
    return run


def recent(api: ContractClient) -> Any:
    (task,) = api.get("/api/tasks").json()["tasks"]
    return task


def test_the_answer_is_the_run_in_the_schedules_shape(alice_api: ContractClient, task: Task, cast: Cast) -> None:
    run = started(start(alice_api, task))
    payload, at = run["payload"], RunRequest.objects.get().asked_at
    assert (run["status"], run["taskIdentifier"]) == ("QUEUED", "customer-prompt-task")
    assert run["tags"] == [f"account:{cast.alice.pk}", f"task:{task.pk}"]
    assert payload == {
        "scheduleId": "sched_alices",
        "type": "IMPERATIVE",
        "timestamp": format_timestamp(at),
        "lastTimestamp": None,
        "externalId": str(task.pk),
        "timezone": "Asia/Calcutta",
        "upcoming": [format_timestamp(moment) for moment in cron.next_times(task.schedule, task.timezone, after=at)],
    }


def test_it_is_among_the_tasks_runs_and_the_accounts(alice_api: ContractClient, task: Task, cast: Cast) -> None:
    run = started(start(alice_api, task))
    assert [shown["id"] for shown in recent(alice_api)["recent_runs"]] == [run["id"]]
    assert [shown["id"] for shown in alice_api.get(PATH).json()["runs"]] == [run["id"]]
    assert alice_api.get(PATH, {"runId": run["id"]}).json()["runs"] == [run]
    assert with_key(make_key(cast.charlie)).get(PATH, {"runId": run["id"]}).status_code == 404


def test_the_schedule_stays_where_it_is(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    start(alice_api, task)
    asked = {name for name in trigger.asked if "schedules" in name}
    row = Task.objects.get()
    assert (asked, row.generation, row.synced_generation) == (set(), 1, 1)


def test_scheduled_and_started_runs_are_one_list_newest_first(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    schedule = {"id": "sched_alices", "externalId": str(task.pk)}
    for age in (600, 500, 400, 300, 200):
        trigger.state.add_run(
            StandinRun("customer-prompt-task", trigger.state.now - age, f"run_{age}", schedule=schedule)
        )
    run = started(start(alice_api, task))
    shown = [one["id"] for one in recent(alice_api)["recent_runs"]]
    assert shown == [run["id"], "run_200", "run_300", "run_400", "run_500"]


def test_a_task_never_run_so_costs_no_extra_call(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    recent(alice_api)
    assert trigger.asked["all"] == 1
    start(alice_api, task)
    trigger.asked.clear()
    recent(alice_api)
    assert trigger.asked["GET /api/v1/runs"] == 2


def test_a_run_with_the_tasks_tag_and_anothers_account_is_not_shown(
    alice_api: ContractClient, task: Task, cast: Cast, trigger: Standin
) -> None:
    start(alice_api, task)
    forged = [f"task:{task.pk}", f"account:{cast.charlie.pk}"]
    for tags in (forged, forged[:1]):
        trigger.state.add_run(StandinRun("create-content", trigger.state.now, tags=tags))
    assert len(recent(alice_api)["recent_runs"]) == 1


@pytest.mark.parametrize(
    ("statuses", "joint"),
    [
        ([], RunsStatus.FRESH),
        ([RunsStatus.FRESH, RunsStatus.FRESH], RunsStatus.FRESH),
        ([RunsStatus.FRESH, RunsStatus.UNAVAILABLE], RunsStatus.STALE),
        ([RunsStatus.STALE, RunsStatus.UNAVAILABLE], RunsStatus.STALE),
        ([RunsStatus.UNAVAILABLE], RunsStatus.UNAVAILABLE),
    ],
)
def test_what_is_known_in_part_is_called_stale(statuses: list[RunsStatus], joint: RunsStatus) -> None:
    assert joint_status(statuses) is joint


def test_a_paused_task_without_a_schedule_is_run_too(alice_api: ContractClient, cast: Cast) -> None:
    paused = make_task(cast.alice, cast.artist, enabled=False)
    run = started(start(alice_api, paused))
    assert (run["payload"]["scheduleId"], len(run["payload"]["upcoming"])) == ("sched_none", 10)
    assert recent(alice_api)["recent_runs"][0]["id"] == run["id"]


def test_it_remembers_who_asked(alice_api: ContractClient, task: Task, cast: Cast) -> None:
    run = started(start(with_key(make_key(cast.bob)), task))
    (asked,) = RunRequest.objects.all()
    assert (asked.asked_by, asked.run_id, asked.asked_by_staff) == (cast.bob, run["id"], "")


# --- Who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "account", "status"),
    [
        ("alice", None, 200),
        ("alice", "alice", 200),
        ("bob", None, 200),
        ("bob", "alice", 200),
        ("bob", "bob", 404),
        ("charlie", None, 404),
        ("charlie", "alice", 403),
        ("charlie", UNKNOWN, 403),
        ("dora", None, 200),
        ("dora", "alice", 200),
        ("dora", "bob", 404),
    ],
)
def test_who_may_run_alices_task(
    cast: Cast, task: Task, trigger: Standin, caller: str, account: str | None, status: int
) -> None:
    named = {"alice": cast.alice.pk, "bob": cast.bob.pk}.get(account or "", account)
    fields = {} if account is None else {"account_id": str(named)}
    response = start(with_key(make_key(cast.person(caller))), task, **fields)
    assert response.status_code == status
    assert trigger.asked[TRIGGER] == RunRequest.objects.count() == (status == 200)


def test_a_foreign_task_looks_like_one_that_is_not_there(cast: Cast, task: Task) -> None:
    api = with_key(make_key(cast.charlie))
    foreign, unknown = start(api, task), api.post(PATH, {"id": UNKNOWN}, format="json")
    assert (foreign.status_code, foreign.json()) == (404, unknown.json())


def test_a_deleted_task_does_not_run(alice_api: ContractClient, task: Task) -> None:
    Task.objects.update(deleted_at=timezone.now())
    assert start(alice_api, task).status_code == 404


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "id is required"),
        ({"id": "x"}, "must be a UUID"),
        ({"id": UNKNOWN, "payload": {}}, "'payload' is not a writable field"),
        ([], "must be a JSON object"),
    ],
)
def test_what_is_wrong_with_the_body_is_named(
    alice_api: ContractClient, trigger: Standin, body: Any, named: str
) -> None:
    response = alice_api.post(PATH, body, format="json")
    assert (response.status_code, set(response.json())) == (400, {"status", "error"})
    assert named in response.json()["error"]
    assert trigger.asked["all"] == 0


def test_a_parameter_belongs_in_the_body(alice_api: ContractClient, task: Task) -> None:
    response = alice_api.post(f"{PATH}?id={task.pk}", {}, format="json")
    assert response.json()["error"] == "Unknown parameter 'id'. Send everything in the body."


def test_a_zone_that_is_a_folder_of_zones_hides_no_tasks(alice_api: ContractClient, cast: Cast, task: Task) -> None:
    broken = make_task(cast.alice, cast.artist, timezone="America")
    assert alice_api.get("/api/tasks").status_code == 200
    assert started(start(alice_api, broken))["payload"]["upcoming"] == []


def test_it_needs_a_credential(anonymous_api: ContractClient, task: Task) -> None:
    assert start(anonymous_api, task).status_code == 401


# --- Again, and while Trigger.dev is away -----------------------------------------------------------------------------


def test_the_same_key_starts_no_second_run(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    first, again = (start(alice_api, task, "once") for _ in range(2))
    assert started(first)["id"] == started(again)["id"]
    assert (first.get("Idempotent-Replayed"), again["Idempotent-Replayed"]) == (None, "true")
    assert (RunRequest.objects.count(), trigger.asked[TRIGGER]) == (1, 1)
    assert started(start(alice_api, task))["id"] != started(start(alice_api, task))["id"]


def test_a_key_is_its_callers_and_its_tasks(cast: Cast, task: Task, trigger: Standin) -> None:
    """The same words of another tenant must not give him this run; and they never reach Trigger.dev."""
    theirs = make_task(cast.charlie, cast.artist)
    other = make_task(cast.alice, cast.artist)
    alice, bob, charlie = (with_key(make_key(account)) for account in (cast.alice, cast.bob, cast.charlie))
    asked = [start(alice, task, "once"), start(alice, other, "once"), start(bob, task, "once")]
    runs = {started(response)["id"] for response in (*asked, start(charlie, theirs, "once"))}
    assert len(runs) == 4
    sent = {run.idempotency_key for run_id in runs if (run := trigger.state.run(run_id))}
    assert all(key and len(key) == 64 for key in sent)


def test_a_run_that_was_started_before_the_connection_broke_is_found_again(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    trigger.faults.add(Fault("reset", method="POST"))
    failed = start(alice_api, task, "once")
    assert (failed.status_code, failed["Retry-After"]) == (500, "5")
    assert "same Idempotency-Key" in failed.json()["error"]
    trigger.faults.clear()
    run = started(start(alice_api, task, "once"))
    assert len(recent(alice_api)["recent_runs"]) == 1
    assert RunRequest.objects.get().run_id == run["id"]


def test_a_run_that_cannot_be_looked_at_yet_is_answered_all_the_same(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    trigger.faults.add(Fault("status", method="GET"))
    response = start(alice_api, task)
    run = started(response)
    assert (response.json()["runs_status"], run["status"]) == ("stale", "QUEUED")
    assert trigger.state.run(run["id"])


def test_another_environment_is_never_asked(
    alice_api: ContractClient, task: Task, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_SECRET_KEY = "tr_dev_x"
    response = start(alice_api, task)
    assert (response.status_code, "operator" in response.json()["error"]) == (500, True)
    assert (trigger.asked["all"], RunRequest.objects.count()) == (0, 0)


def test_the_last_fire_is_told_where_it_is_known(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    payload = {"timestamp": "2026-11-21T03:30:00.000Z", "timezone": "Asia/Calcutta", "upcoming": []}
    schedule = {"id": "sched_alices", "externalId": str(task.pk)}
    fired = StandinRun("customer-prompt-task", trigger.state.now - 9, schedule=schedule, payload=payload)
    trigger.state.add_run(fired)
    recent(alice_api)
    upstream.finish()  # the payload is fetched behind the answer
    assert run_now.payload(task, at=timezone.now())["lastTimestamp"] == "2026-11-21T03:30:00.000Z"


def test_who_lost_access_does_not_start_it_with_an_old_key(cast: Cast, task: Task) -> None:
    bob_api = with_key(make_key(cast.bob))
    started(start(bob_api, task, "once"))
    Membership.objects.filter(account=cast.bob).delete()
    assert start(bob_api, task, "once").status_code == 404
