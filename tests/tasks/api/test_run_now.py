"""POST /api/tasks/runs: runs a task now, outside its schedule, and records who requested the run."""

from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts.models import Membership
from core.text import format_timestamp
from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks import cron
from tasks.models import RunRequest, Task
from tasks.runs import run_now
from tasks.runs.steps import run_steps
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

PATH = "/api/tasks/runs"
TRIGGER_ROUTE = "POST /api/v1/tasks/{id}/trigger"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def task(cast: Cast) -> Task:
    return make_task(cast.alice, cast.artist, trigger_schedule_id="sched_alices", timezone="Asia/Kolkata")


def post_run(api: ContractClient, task: Task, key: str = "", **fields: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return api.post(PATH, {"id": str(task.pk), **fields}, format="json", headers=headers)


def started_run(response: Any) -> Any:
    assert response.status_code == 200, response.content
    (run,) = response.json()["runs"]
    return run


def get_only_task(api: ContractClient) -> Any:
    (task,) = api.get("/api/tasks").json()["tasks"]
    return task


def test_the_response_shows_the_run_with_the_payload_of_a_scheduled_run(
    alice_api: ContractClient, task: Task, cast: Cast
) -> None:
    run = started_run(post_run(alice_api, task))
    payload, at = run["payload"], RunRequest.objects.get().requested_at
    assert (run["status"], run["taskIdentifier"]) == ("QUEUED", "customer-prompt-task")
    request_tag = run_now.request_tag(RunRequest.objects.get())
    assert run["tags"] == [f"account:{cast.alice.pk}", request_tag, f"task:{task.pk}"]
    assert payload == {
        "scheduleId": "sched_alices",
        "type": "IMPERATIVE",
        "timestamp": format_timestamp(at),
        "lastTimestamp": None,
        "externalId": str(task.pk),
        "timezone": "Asia/Calcutta",
        "upcoming": [format_timestamp(time) for time in cron.next_times(task.schedule, task.timezone, after=at)],
    }


def test_the_run_is_in_the_lists_of_its_task_and_its_account(alice_api: ContractClient, task: Task, cast: Cast) -> None:
    run = started_run(post_run(alice_api, task))
    assert [shown["id"] for shown in get_only_task(alice_api)["recent_runs"]] == [run["id"]]
    assert [shown["id"] for shown in alice_api.get(PATH).json()["runs"]] == [run["id"]]
    assert alice_api.get(PATH, {"runId": run["id"]}).json()["runs"] == [run]
    assert with_key(make_key(cast.charlie)).get(PATH, {"runId": run["id"]}).status_code == 404


def test_running_now_does_not_touch_the_schedule(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    post_run(alice_api, task)
    schedule_calls = {name for name in trigger.asked if "schedules" in name}
    row = Task.objects.get()
    assert (schedule_calls, row.generation, row.synced_generation) == (set(), 1, 1)


def test_scheduled_and_manual_runs_are_one_list_newest_first(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    schedule = {"id": "sched_alices", "externalId": str(task.pk)}
    for age in (600, 500, 400, 300, 200):
        trigger.state.add_run(
            StandinRun("customer-prompt-task", trigger.state.now - age, f"run_{age}", schedule=schedule)
        )
    run = started_run(post_run(alice_api, task))
    shown = [shown_run["id"] for shown_run in get_only_task(alice_api)["recent_runs"]]
    assert shown == [run["id"], "run_200", "run_300", "run_400", "run_500"]


def test_manual_runs_cost_one_more_call_of_a_poll(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    get_only_task(alice_api)
    assert trigger.asked["all"] == 1
    post_run(alice_api, task)
    trigger.asked.clear()
    get_only_task(alice_api)
    assert trigger.asked["all"] == 0, "the run is stored when it is started"
    Task.objects.update(next_poll_at=timezone.now())
    run_steps()
    assert trigger.asked["GET /api/v1/runs"] == 2


def test_a_run_with_the_tag_of_the_task_but_not_of_its_account_is_not_shown(
    alice_api: ContractClient, task: Task, cast: Cast, trigger: Standin
) -> None:
    post_run(alice_api, task)
    forged_tags = [f"task:{task.pk}", f"account:{cast.charlie.pk}"]
    for tags in (forged_tags, forged_tags[:1]):
        trigger.state.add_run(StandinRun("create-content", trigger.state.now, tags=tags))
    assert len(get_only_task(alice_api)["recent_runs"]) == 1


def test_a_paused_task_without_a_schedule_can_run_now(alice_api: ContractClient, cast: Cast) -> None:
    paused = make_task(cast.alice, cast.artist, enabled=False)
    run = started_run(post_run(alice_api, paused))
    assert (run["payload"]["scheduleId"], len(run["payload"]["upcoming"])) == ("sched_none", 10)
    assert get_only_task(alice_api)["recent_runs"][0]["id"] == run["id"]


def test_the_run_request_records_who_requested_it(alice_api: ContractClient, task: Task, cast: Cast) -> None:
    run = started_run(post_run(with_key(make_key(cast.bob)), task))
    (run_request,) = RunRequest.objects.all()
    assert (run_request.requested_by, run_request.run_id, run_request.requested_by_staff) == (cast.bob, run["id"], "")


# --- Access ----------------------------------------------------------------------------------------------------------


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
def test_access_to_run_alices_task(
    cast: Cast, task: Task, trigger: Standin, caller: str, account: str | None, status: int
) -> None:
    account_id = {"alice": cast.alice.pk, "bob": cast.bob.pk}.get(account or "", account)
    fields = {} if account is None else {"account_id": str(account_id)}
    response = post_run(with_key(make_key(cast.person(caller))), task, **fields)
    assert response.status_code == status
    assert trigger.asked[TRIGGER_ROUTE] == RunRequest.objects.count() == (status == 200)


def test_the_404_is_the_same_for_another_accounts_task_and_for_an_unknown_task(cast: Cast, task: Task) -> None:
    api = with_key(make_key(cast.charlie))
    alices, unknown = post_run(api, task), api.post(PATH, {"id": UNKNOWN}, format="json")
    assert (alices.status_code, alices.json()) == (404, unknown.json())


def test_a_deleted_task_cannot_run(alice_api: ContractClient, task: Task) -> None:
    Task.objects.update(deleted_at=timezone.now())
    assert post_run(alice_api, task).status_code == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "id is required"),
        ({"id": "x"}, "must be a UUID"),
        ({"id": UNKNOWN, "payload": {}}, "'payload' is not a writable field"),
        ([], "must be a JSON object"),
    ],
)
def test_an_invalid_body_is_a_400_that_names_the_mistake(
    alice_api: ContractClient, trigger: Standin, body: Any, message: str
) -> None:
    response = alice_api.post(PATH, body, format="json")
    assert (response.status_code, set(response.json())) == (400, {"status", "error"})
    assert message in response.json()["error"]
    assert trigger.asked["all"] == 0


def test_a_query_parameter_is_rejected(alice_api: ContractClient, task: Task) -> None:
    response = alice_api.post(f"{PATH}?id={task.pk}", {}, format="json")
    assert response.json()["error"] == "Unknown parameter 'id'. Send everything in the body."


def test_a_stored_time_zone_that_is_a_directory_breaks_neither_list_nor_run(
    alice_api: ContractClient, cast: Cast, task: Task
) -> None:
    broken = make_task(cast.alice, cast.artist, timezone="America")
    assert alice_api.get("/api/tasks").status_code == 200
    assert started_run(post_run(alice_api, broken))["payload"]["upcoming"] == []


def test_running_a_task_requires_authentication(anonymous_api: ContractClient, task: Task) -> None:
    assert post_run(anonymous_api, task).status_code == 401


# --- Idempotency keys and outages ------------------------------------------------------------------------------------


def test_the_same_idempotency_key_starts_no_second_run(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    first, second = (post_run(alice_api, task, "once") for _ in range(2))
    assert started_run(first)["id"] == started_run(second)["id"]
    assert (first.get("Idempotent-Replayed"), second["Idempotent-Replayed"]) == (None, "true")
    assert (RunRequest.objects.count(), trigger.asked[TRIGGER_ROUTE]) == (1, 1)
    assert started_run(post_run(alice_api, task))["id"] != started_run(post_run(alice_api, task))["id"]


def test_an_idempotency_key_is_scoped_to_its_caller_and_task(cast: Cast, task: Task, trigger: Standin) -> None:
    """The same key of another account must not return this run. Trigger.dev only gets a hash of the key."""
    charlies_task = make_task(cast.charlie, cast.artist)
    other_task = make_task(cast.alice, cast.artist)
    alice, bob, charlie = (with_key(make_key(account)) for account in (cast.alice, cast.bob, cast.charlie))
    responses = [post_run(alice, task, "once"), post_run(alice, other_task, "once"), post_run(bob, task, "once")]
    runs = {started_run(response)["id"] for response in (*responses, post_run(charlie, charlies_task, "once"))}
    assert len(runs) == 4
    sent_keys = {run.idempotency_key for run_id in runs if (run := trigger.state.run(run_id))}
    assert all(key and len(key) == 64 for key in sent_keys)


def test_a_retry_with_the_same_idempotency_key_finds_the_run_started_before_a_connection_reset(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    trigger.faults.add(Fault("reset", method="POST"))
    failed = post_run(alice_api, task, "once")
    assert (failed.status_code, failed["Retry-After"]) == (500, "5")
    assert "same Idempotency-Key" in failed.json()["error"]
    trigger.faults.clear()
    run = started_run(post_run(alice_api, task, "once"))
    assert len(get_only_task(alice_api)["recent_runs"]) == 1
    assert RunRequest.objects.get().run_id == run["id"]


def test_a_retry_finds_the_unconfirmed_run_that_has_failed_meanwhile(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    """Trigger.dev forgets the idempotency key of a run that fails."""
    trigger.faults.add(Fault("reset", method="POST"))
    post_run(alice_api, task, "once")
    (unconfirmed,) = trigger.state.newest_runs(schedule_ids=[], tags=[f"task:{task.pk}"], since=0.0)
    trigger.state.remove_run(unconfirmed.id)
    trigger.state.add_run(replace(unconfirmed, stuck_as="COMPLETED_WITH_ERRORS"))
    trigger.faults.clear()
    trigger.asked.clear()
    response = post_run(alice_api, task, "once")
    assert (started_run(response)["id"], response["Idempotent-Replayed"]) == (unconfirmed.id, "true")
    assert trigger.asked[TRIGGER_ROUTE] == 0
    assert started_run(post_run(alice_api, task, "once"))["id"] == unconfirmed.id


def test_a_run_with_the_tag_of_no_request_is_never_taken_for_the_unconfirmed_one(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    """Should a server ignore the filter, as Trigger.dev does with an empty one."""
    trigger.faults.add(Fault("reset", method="POST", times=1))
    post_run(alice_api, task, "once")
    (unconfirmed,) = trigger.state.newest_runs(schedule_ids=[], tags=[f"task:{task.pk}"], since=0.0)
    trigger.state.add_run(StandinRun("customer-prompt-task", trigger.state.now + 1, tags=["account:x"]))
    trigger.state.ignores_tags = True
    assert started_run(post_run(alice_api, task, "once"))["id"] == unconfirmed.id


def test_a_second_try_that_is_refused_does_not_hide_that_the_first_may_have_started_a_run(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    trigger.faults.add(Fault("reset", method="POST", times=1))
    trigger.faults.add(Fault("rate_limit", method="POST", seconds=1, times=1))
    assert "same Idempotency-Key" in post_run(alice_api, task, "once").json()["error"]
    assert RunRequest.objects.count() == 1


def test_a_run_is_remembered_also_where_another_request_has_deleted_the_row(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    """The other one had the same key, and its call was not sent."""

    def delete_row(request: Request) -> None:
        if request.method == "POST":
            RunRequest.objects.all().delete()

    trigger.after = delete_row
    run = started_run(post_run(alice_api, task, "once"))
    assert RunRequest.objects.get().run_id == run["id"]


@pytest.mark.parametrize(
    ("fault", "kept"),
    [(Fault("rate_limit", seconds=9), 0), (Fault("status", status=422), 0), (Fault("reset"), 1), (Fault("status"), 1)],
    ids=["429", "refused", "reset", "500"],
)
def test_a_request_is_kept_only_where_a_run_may_have_been_started(
    alice_api: ContractClient, task: Task, trigger: Standin, fault: Fault, kept: int
) -> None:
    trigger.faults.add(replace(fault, method="POST"))
    assert post_run(alice_api, task).status_code == 500
    assert RunRequest.objects.count() == kept


def test_a_started_run_that_cannot_be_retrieved_yet_is_shown_as_queued_and_stale(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    trigger.faults.add(Fault("status", method="GET"))
    response = post_run(alice_api, task)
    run = started_run(response)
    assert (response.json()["runs_status"], run["status"]) == ("stale", "QUEUED")
    assert trigger.state.run(run["id"])


def test_a_secret_key_of_another_environment_is_never_used(
    alice_api: ContractClient, task: Task, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_SECRET_KEY = "tr_dev_x"
    response = post_run(alice_api, task)
    assert (response.status_code, "operator" in response.json()["error"]) == (500, True)
    assert (trigger.asked["all"], RunRequest.objects.count()) == (0, 0)


def test_the_payload_holds_the_time_of_the_newest_stored_scheduled_run(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    schedule = {"id": "sched_alices", "externalId": str(task.pk)}
    scheduled_run = StandinRun("customer-prompt-task", trigger.state.now - 9, schedule=schedule, kind="SCHEDULED")
    trigger.state.add_run(scheduled_run)
    post_run(alice_api, task)
    (stored,) = get_only_task(alice_api)["recent_runs"][1:]
    assert run_now.payload(task, at=timezone.now())["lastTimestamp"] == f"{stored['createdAt'][:16]}:00.000Z"


def test_a_caller_who_lost_access_cannot_reuse_an_old_idempotency_key(cast: Cast, task: Task) -> None:
    bob_api = with_key(make_key(cast.bob))
    started_run(post_run(bob_api, task, "once"))
    Membership.objects.filter(account=cast.bob).delete()
    assert post_run(bob_api, task, "once").status_code == 404
