from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine

from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.run_json import STATUSES
from demo.standin.standin import Standin
from demo.standin.state import StandinRun, State
from tasks.runs.copies import LEFT_OUT_OF_LISTS
from tasks.runs.shared import NewestPoller
from tasks.runs.steps import made
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, later, with_key

PATH = "/api/tasks/runs"


@pytest.fixture
def alices_tag(cast: Cast) -> str:
    return f"account:{cast.alice.pk}"


def add_run(trigger: Standin, tag: str, *, age: float = 60, **fields: Any) -> StandinRun:
    return trigger.state.add_run(StandinRun("create-content", trigger.state.now - age, tags=[tag], **fields))


def list_runs(api: ContractClient, query: str = "") -> list[dict[str, Any]]:
    response = api.get(f"{PATH}{query}")
    assert response.status_code == 200, response.content
    runs: list[dict[str, Any]] = response.json()["runs"]
    return runs


# --- List of runs ----------------------------------------------------------------------------------------------------


def test_an_account_without_runs_gets_an_empty_list(alice_api: ContractClient) -> None:
    body = alice_api.get(PATH).json()
    assert (body["status"], body["runs"], body["runs_status"]) == ("success", [], "fresh")


@pytest.mark.parametrize(("query", "count"), [("", 20), ("?limit=1", 1), ("?limit=100", 25), ("?limit=007", 7)])
def test_the_default_limit_is_20(
    alice_api: ContractClient, trigger: Standin, alices_tag: str, query: str, count: int
) -> None:
    for age in range(25):
        add_run(trigger, alices_tag, age=age)
    assert len(list_runs(alice_api, query)) == count


def test_the_list_includes_runs_older_than_seven_days(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag, age=40 * 24 * 3600)
    assert [shown["id"] for shown in list_runs(alice_api)] == [run.id]


def test_a_list_costs_one_call(alice_api: ContractClient, trigger: Standin) -> None:
    list_runs(alice_api)
    assert trigger.asked["all"] == 1


def test_a_list_leaves_out_payload_output_and_other_details(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    add_run(trigger, alices_tag, payload={"a": 1}, has_output=True)
    assert not list_runs(alice_api)[0].keys() & {"payload", "output", "error", "attempts", "schedule", "relatedRuns"}


def test_with_trigger_down_the_cached_list_is_shown_as_stale(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    add_run(trigger, alices_tag)
    before = alice_api.get(PATH).json()
    trigger.faults.add(Fault("reset"))
    with later(minutes=1):
        after = alice_api.get(PATH).json()
    assert (after["runs"], after["runs_status"]) == (before["runs"], "stale")


@pytest.mark.parametrize("query", ["", "?runId=run_abc"])
@pytest.mark.parametrize("kind", ["status", "hang", "reset", "garbage"])
def test_with_trigger_down_and_an_empty_cache_the_response_is_a_500_with_retry_after(
    alice_api: ContractClient, trigger: Standin, query: str, kind: Any
) -> None:
    trigger.faults.add(Fault(kind))
    response = alice_api.get(f"{PATH}{query}")
    assert (response.status_code, response["Retry-After"]) == (500, "5")
    assert response.json()["error"].startswith("Trigger.dev is unavailable at the moment")


@time_machine.travel(datetime(2026, 11, 22, 12, tzinfo=UTC), tick=False)
def test_after_a_429_of_trigger_retry_after_is_the_rate_limit_reset(
    alice_api: ContractClient, trigger: Standin
) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=17))
    response = alice_api.get(PATH)
    assert (response.status_code, response["Retry-After"]) == (500, "17")


def test_what_is_stored_is_listed_also_where_the_account_was_never_asked_for(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    schedule = {"id": "sched_a", "externalId": str(task.pk)}
    trigger.state.add_run(StandinRun("t", trigger.state.now - 60, schedule=schedule, kind="SCHEDULED"))
    alice_api.get("/api/tasks")
    trigger.faults.add(Fault("hang"))
    for query in ({}, {"task_id": str(task.pk)}):
        body = alice_api.get(PATH, query).json()
        assert (len(body["runs"]), body["runs_status"], body["runs_as_of"]) == (1, "stale", None)


def test_a_run_that_was_just_started_is_shown_where_a_replica_does_not_know_it_yet(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    (run,) = alice_api.post(PATH, {"id": str(task.pk)}, format="json").json()["runs"]
    trigger.faults.add(Fault("status", path="/api/v3/runs/*", status=404, message="Run not found"))
    with later(seconds=5):
        assert alice_api.get(PATH, {"runId": run["id"]}).json()["runs_status"] == "stale"


def test_a_run_that_a_list_has_brought_while_it_was_started_is_its_tasks(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a")
    for path in (PATH, "/api/tasks"):
        alice_api.get(path)
    clock.shift(6.5)

    def read_newest(request: Request) -> None:
        if request.method == "POST":
            made(NewestPoller).poll()

    trigger.after = read_newest
    (run,) = alice_api.post(PATH, {"id": str(task.pk)}, format="json").json()["runs"]
    (shown,) = alice_api.get("/api/tasks").json()["tasks"]
    assert [recent["id"] for recent in shown["recent_runs"]] == [run["id"]]


# --- One run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", STATUSES)
def test_every_run_status_is_shown(alice_api: ContractClient, trigger: Standin, alices_tag: str, stored: str) -> None:
    run = add_run(trigger, alices_tag, stuck_as=stored)
    (shown,) = list_runs(alice_api, f"?runId={run.id}")
    assert shown["status"] == STATUSES[stored].shown
    assert shown["tags"] == [alices_tag]


@pytest.mark.parametrize("output", [None, "done", 0, False, [], {"a": [1, {"b": None}]}])
def test_the_output_can_be_any_json_value(
    alice_api: ContractClient, trigger: Standin, alices_tag: str, output: object
) -> None:
    run = add_run(trigger, alices_tag, has_output=True, output=output, payload={"n": 1})
    (shown,) = list_runs(alice_api, f"?runId={run.id}")
    assert (shown["output"], shown["payload"], shown["attempts"]) == (output, {"n": 1}, [])


def test_emoji_and_lone_surrogates_in_a_run_are_passed_through(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag, metadata={"emoji": "🎧", "lone surrogate": "\ud83d"})
    (shown,) = list_runs(alice_api, f"?runId={run.id}")
    assert shown["metadata"] == {"emoji": "🎧", "lone surrogate": "\ud83d"}


def test_a_run_is_queued_then_executing_then_completed(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    ages = {"QUEUED": 1, "EXECUTING": 5, "COMPLETED": 11}
    runs = {status: add_run(trigger, alices_tag, age=age) for status, age in ages.items()}
    for status, run in runs.items():
        assert list_runs(alice_api, f"?runId={run.id}")[0]["status"] == status


@pytest.mark.parametrize("limit", ["limit=0", "limit=", "limit=x", "limit=1&limit=2"])
def test_with_run_id_even_an_invalid_limit_is_ignored(
    alice_api: ContractClient, trigger: Standin, alices_tag: str, limit: str
) -> None:
    run = add_run(trigger, alices_tag)
    assert len(list_runs(alice_api, f"?runId={run.id}&{limit}")) == 1


@pytest.mark.parametrize(
    "run_id",
    [
        "run_",
        "run-x",
        "RUN_x",
        "run_x/../y",
        "run_x%2F",
        "run_x%00",
        "run_" + "x" * 65,
        "run_é",
        "x" * 10_000,
        "run_x%0A",
    ],
)
def test_a_malformed_run_id_is_a_404_without_a_call(alice_api: ContractClient, trigger: Standin, run_id: str) -> None:
    response = alice_api.get(f"{PATH}?runId={run_id}")
    assert (response.status_code, response.json()) == (404, {"status": "error", "error": "Task run not found"})
    assert trigger.asked["all"] == 0


def test_repeated_requests_for_an_unknown_run_make_one_call(alice_api: ContractClient, trigger: Standin) -> None:
    for _ in range(3):
        assert alice_api.get(f"{PATH}?runId=run_unknown").status_code == 404
    assert trigger.asked["all"] == 1, "Trigger.dev's x-should-retry is ignored, and the 404 is cached"


def test_a_404_of_a_wrong_trigger_url_does_not_mean_run_not_found(
    alice_api: ContractClient, trigger: Standin, settings: Any
) -> None:
    settings.TRIGGER_API_URL = "http://trigger.test/some/page"
    assert alice_api.get(f"{PATH}?runId=run_x").status_code == 500


def test_with_trigger_down_the_stored_run_is_shown_as_stale_and_without_payload(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag, payload={"a": 1})
    before = alice_api.get(f"{PATH}?runId={run.id}").json()
    assert (before["runs_status"], before["runs"][0]["payload"]) == ("fresh", {"a": 1})
    trigger.faults.add(Fault("status", status=502))
    with later(hours=3):
        after = alice_api.get(f"{PATH}?runId={run.id}").json()
    assert after["runs_status"] == "stale"
    assert after["runs"] == [{k: v for k, v in before["runs"][0].items() if k not in LEFT_OUT_OF_LISTS}]


def test_with_trigger_down_another_accounts_cached_run_looks_like_an_unknown_run(
    alice_api: ContractClient, cast: Cast, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag)
    list_runs(alice_api, f"?runId={run.id}")
    trigger.faults.add(Fault("reset"))
    charlie = with_key(make_key(cast.charlie))
    alices, unknown = (charlie.get(f"{PATH}?runId={run_id}") for run_id in (run.id, "run_unknown"))
    assert (alices.status_code, alices.content) == (unknown.status_code, unknown.content)


def test_a_deeply_nested_run_is_passed_through_and_cached(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    nested: dict[str, Any] = {}
    for _ in range(300):
        nested = {"a": nested}
    run = add_run(trigger, alices_tag, metadata=nested)
    assert list_runs(alice_api, f"?runId={run.id}")[0]["metadata"] == nested
    trigger.faults.add(Fault("reset"))
    with later(hours=3):
        assert list_runs(alice_api, f"?runId={run.id}")[0]["metadata"] == nested


@pytest.mark.parametrize(("stuck_as", "status"), [(None, 200), ("EXECUTING", 404)])
def test_a_run_that_trigger_has_forgotten_is_history_if_it_had_ended(
    alice_api: ContractClient, trigger: Standin, alices_tag: str, stuck_as: str | None, status: int
) -> None:
    run = add_run(trigger, alices_tag, stuck_as=stuck_as)
    list_runs(alice_api, f"?runId={run.id}")
    trigger.state.close()
    trigger.state = State()
    with later(hours=3):
        response = alice_api.get(f"{PATH}?runId={run.id}")
    assert response.status_code == status
    assert response.json().get("runs_status") == ("stale" if status == 200 else None)


def test_a_presigned_url_is_passed_through_but_not_cached(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag, presigned_output="https://store.example/x")
    query = f"?runId={run.id}"
    assert list_runs(alice_api, query)[0]["outputPresignedUrl"] == "https://store.example/x"
    trigger.faults.add(Fault("reset"))
    with later(seconds=4):
        assert "outputPresignedUrl" not in list_runs(alice_api, query)[0]
    with later(hours=3):
        assert "outputPresignedUrl" not in list_runs(alice_api, query)[0]


# --- Related runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def parent_run(trigger: Standin, cast: Cast, alices_tag: str) -> StandinRun:
    """Alice's parent run with three children: one of Alice, one of Charlie and one without an account tag."""
    parent = add_run(trigger, alices_tag, id="run_parent")
    parent_ids: dict[str, Any] = {"parent_id": parent.id, "root_id": parent.id}
    add_run(trigger, alices_tag, id="run_own", **parent_ids)
    add_run(trigger, f"account:{cast.charlie.pk}", id="run_charlie", **parent_ids)
    trigger.state.add_run(StandinRun("setup-sandbox", trigger.state.now, "run_nobody", **parent_ids))
    return parent


def test_a_parent_run_shows_only_the_child_runs_of_the_caller(
    alice_api: ContractClient, parent_run: StandinRun
) -> None:
    (shown,) = list_runs(alice_api, f"?runId={parent_run.id}")
    assert [child["id"] for child in shown["relatedRuns"]["children"]] == ["run_own"]


def test_an_admin_sees_all_related_runs_and_with_account_id_only_those_of_that_account(
    dora_api: ContractClient, cast: Cast, parent_run: StandinRun
) -> None:
    (shown,) = list_runs(dora_api, f"?runId={parent_run.id}")
    assert {child["id"] for child in shown["relatedRuns"]["children"]} == {"run_own", "run_charlie", "run_nobody"}
    (narrowed,) = list_runs(dora_api, f"?runId={parent_run.id}&account_id={cast.alice.pk}")
    assert [child["id"] for child in narrowed["relatedRuns"]["children"]] == ["run_own"]


def test_a_child_run_does_not_show_the_parent_run_of_another_account(
    trigger: Standin, cast: Cast, parent_run: StandinRun
) -> None:
    (shown,) = list_runs(with_key(make_key(cast.charlie)), "?runId=run_charlie")
    assert shown["relatedRuns"] == {"children": []}
