"""The stand-in's runs, compared with the recordings of the real server."""

import json
from datetime import timedelta
from typing import Any

import pytest

from demo.standin.messages import Reply, Request
from demo.standin.run_json import API_VERSION, FLAGS, STATUSES
from demo.standin.standin import Standin
from demo.standin.state import StandinRun, State
from tests import recordings
from tests.demo.standin.conftest import HEADERS, NOW, Clock

# The official SDK rejects a run without these keys.
SDK_KEYS = {"id", "status", "taskIdentifier", "isTest", "createdAt", "updatedAt", "tags", *FLAGS}
SDK_KEYS |= {"costInCents", "baseCostInCents", "durationMs"}


def send(standin: Standin, target: str, *, method: str = "GET", body: Any = None, **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return standin.answer(Request(method, target, {**HEADERS, **headers}, raw))


def body_of(reply: Reply) -> Any:
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def add_run(standin: Standin, **fields: Any) -> StandinRun:
    age = fields.pop("age", 60)
    return standin.state.add_run(StandinRun(fields.pop("task", "create-content"), standin.state.now - age, **fields))


# --- Against the recordings ------------------------------------------------------------------------------------------

EXACT_REPLIES = [
    "run_get_unknown",
    "run_get_malformed",
    "run_get_v1_path",
    "run_get_no_auth",
    "run_get_wrong_key",
    "runs_list_no_auth",
    "runs_list_wrong_key",
    "runs_list_size_0",
    "runs_list_size_101",
    "runs_list_filter_schedule_unknown",
    "trigger_bad_body",
    "trigger_eleven_tags",
    "trigger_long_tag",
    "trigger_wrong_key",
    "unknown_api_route",
]


@pytest.mark.parametrize("name", EXACT_REPLIES)
def test_a_refusal_equals_the_recording(standin: Standin, name: str) -> None:
    method, target = recordings.target(name)
    request = recordings.recording(name)["request"]
    body = json.dumps(request["body"]).encode() if request["body"] is not None else b"not json"
    headers = request["headers"]
    if name.endswith("wrong_key"):  # the recordings contain no real API key
        headers = {**headers, "Authorization": "Bearer tr_prod_wrong"}
    reply = standin.answer(Request(method, target, headers, body))
    status, headers, expected = recordings.reply(name)
    assert (reply.status, reply.content_type) == (status, headers["content-type"])
    if "json" in reply.content_type:
        assert json.loads(reply.body) == json.loads(expected)
    assert ("x-should-retry" in reply.headers) == ("x-should-retry" in headers)
    assert ("x-ratelimit-limit" in reply.headers) == ("x-ratelimit-limit" in headers)


SIMILAR_RUNS: dict[str, dict[str, Any]] = {
    "run_get_01_PENDING_noversion": {"stuck_as": "PENDING", "ttl": "10m"},
    "run_get_03_EXECUTING_noversion": {"stuck_as": "EXECUTING"},
    "run_get_05_WAITING_TO_RESUME_noversion": {"stuck_as": "WAITING_TO_RESUME"},
    "run_get_08_COMPLETED_WITH_ERRORS_noversion": {"ends_as": "COMPLETED_WITH_ERRORS"},
    "run_get_09_CANCELED_noversion": {"ends_as": "CANCELED", "starts_after": 99},
    "run_get_14_EXPIRED_noversion": {"ends_as": "EXPIRED", "ttl": "10m"},
    "run_get_15_TIMED_OUT_noversion": {"ends_as": "TIMED_OUT"},
    "run_get_18_COMPLETED_scheduled_superjson_noversion": {"has_output": True, "output": "done"},
    "run_get_after_schedule_deleted": {"stuck_as": "PENDING"},
    "trigger_scheduled_task_now_get": {"stuck_as": "PENDING"},
}


@pytest.mark.parametrize("name", SIMILAR_RUNS)
def test_a_run_has_the_recorded_keys_in_their_order(standin: Standin, name: str) -> None:
    recorded = recordings.recording(name)["response"]["body"]
    run = add_run(
        standin,
        task=recorded["taskIdentifier"],
        tags=recorded["tags"],
        payload=recorded["payload"],
        schedule=recorded.get("schedule"),
        error=recorded.get("error"),
        metadata=recorded.get("metadata"),
        **SIMILAR_RUNS[name],
    )
    shown = body_of(send(standin, f"/api/v3/runs/{run.id}"))
    assert list(shown) == list(recorded)
    same = ("status", "taskIdentifier", "tags", "payload", "triggerFunction", "attempts", *FLAGS)
    assert {key: shown[key] for key in same} == {key: recorded[key] for key in same}
    assert shown.get("schedule") == recorded.get("schedule")
    assert shown.get("output") == recorded.get("output")


def test_a_list_item_has_the_recorded_keys_in_order(standin: Standin) -> None:
    (recorded, *_) = recordings.recording("runs_list_filter_schedule_REAL")["response"]["body"]["data"]
    add_run(standin, task="customer-prompt-task", kind="SCHEDULED", stuck_as="PENDING", schedule={"id": "sched_x"})
    (shown,) = body_of(send(standin, "/api/v1/runs?filter[schedule]=sched_x"))["data"]
    assert list(shown) == list(recorded)
    assert {key: type(value) for key, value in shown.items()} == {
        key: type(value) for key, value in recorded.items()
    } | {
        "costInCents": type(shown["costInCents"]),
        "durationMs": type(shown["durationMs"]),
        "baseCostInCents": type(shown["baseCostInCents"]),
    }


@pytest.mark.parametrize("stored", STATUSES)
@pytest.mark.parametrize("versioned", [True, False])
def test_every_run_status_has_the_keys_that_the_sdk_needs(standin: Standin, stored: str, versioned: bool) -> None:
    run = add_run(standin, stuck_as=stored)
    headers = {"x-trigger-api-version": API_VERSION if versioned else "1999-01-01"}
    shown = body_of(send(standin, f"/api/v3/runs/{run.id}", **headers))
    assert set(shown) >= SDK_KEYS | {"depth", "triggerFunction", "relatedRuns"}
    (item,) = body_of(send(standin, "/api/v1/runs", **headers))["data"]
    assert set(item) >= SDK_KEYS | {"env"}
    expected = STATUSES[stored].versioned if versioned else STATUSES[stored].shown
    assert shown["status"] == item["status"] == expected


# --- Lists ----------------------------------------------------------------------------------


def run_ids(standin: Standin, query: str) -> list[str]:
    return [run["id"] for run in body_of(send(standin, f"/api/v1/runs?{query}"))["data"]]


def test_a_list_without_a_date_filter_covers_seven_days(standin: Standin) -> None:
    old = add_run(standin, age=10 * 24 * 3600)
    assert run_ids(standin, "") == []
    assert run_ids(standin, "filter[createdAt][period]=30d") == [old.id]
    assert run_ids(standin, f"filter[createdAt][to]={round(NOW.timestamp() * 1000)}") == [old.id]
    assert run_ids(standin, "filter[createdAt][period]=nonsense") == [old.id]
    assert run_ids(standin, "filter[createdAt][period]=30") == []
    assert send(standin, "/api/v1/runs?filter[createdAt][from]=nonsense").status == 400


def test_an_empty_filter_is_ignored_a_comma_means_or_and_the_last_filter_wins(standin: Standin) -> None:
    b, a = add_run(standin, tags=["b"], age=2), add_run(standin, tags=["a"], age=1)
    assert run_ids(standin, "filter[tag]=") == [a.id, b.id]
    assert run_ids(standin, "filter[tag]=a,b") == [a.id, b.id]
    assert run_ids(standin, "filter[tag]=,") == []
    assert run_ids(standin, "filter[tag]=a&filter[tag]=b") == [b.id]
    assert run_ids(standin, "filter[tag]=A") == []


def test_filters_are_combined_with_and_and_unknown_filters_are_ignored(standin: Standin) -> None:
    run = add_run(standin, tags=["a"], task="one")
    add_run(standin, tags=["a"], task="two")
    assert run_ids(standin, "filter[tag]=a&filter[taskIdentifier]=one&filter[env]=dev&nonsense=1") == [run.id]


def test_the_status_filter_compares_the_stored_status(standin: Standin) -> None:
    waiting, paused = add_run(standin, stuck_as="WAITING_TO_RESUME", age=1), add_run(standin, stuck_as="PAUSED", age=2)
    assert run_ids(standin, "filter[status]=WAITING") == [waiting.id]
    assert run_ids(standin, "filter[status]=FROZEN") == [waiting.id, paused.id]
    assert send(standin, "/api/v1/runs?filter[status]=completed").status == 400


def test_cursor_pagination_continues_after_the_last_run(standin: Standin) -> None:
    runs = [add_run(standin, age=age).id for age in range(5)]
    first = body_of(send(standin, "/api/v1/runs?page[size]=2"))
    second = body_of(send(standin, f"/api/v1/runs?page[size]=2&page[after]={first['pagination']['next']}"))
    assert [run["id"] for run in first["data"] + second["data"]] == runs[:4]
    back = body_of(send(standin, f"/api/v1/runs?page[size]=2&page[before]={second['pagination']['previous']}"))
    assert [run["id"] for run in back["data"]] == runs[1::-1]
    assert "previous" not in first["pagination"]
    assert send(standin, "/api/v1/runs?page[after]=garbage").status == 200


# --- Time, triggering, limits ----------------------------------------------------------------------------------------


def test_a_run_moves_through_its_statuses_over_time(standin: Standin, clock: Clock) -> None:
    started = body_of(send(standin, "/api/v1/tasks/some-task/trigger", method="POST", body={"payload": {"a": 1}}))
    statuses = []
    for _ in range(4):
        statuses.append(body_of(send(standin, f"/api/v3/runs/{started['id']}"))["status"])
        clock.now += timedelta(seconds=4)
    assert statuses == ["QUEUED", "EXECUTING", "EXECUTING", "COMPLETED"]


def test_the_same_idempotency_key_returns_the_same_run(standin: Standin) -> None:
    body = {"payload": {}, "options": {"idempotencyKey": "k", "tags": ["account:x"]}}
    first, again = (body_of(send(standin, "/api/v1/tasks/t/trigger", method="POST", body=body)) for _ in range(2))
    assert (first["isCached"], again["isCached"], first["id"]) == (False, True, again["id"])


def test_a_run_no_longer_names_its_deleted_schedule(standin: Standin) -> None:
    run = add_run(standin, schedule={"id": "sched_x"}, payload={"scheduleId": "sched_x"})
    standin.state.detach_runs("sched_x")
    shown = body_of(send(standin, f"/api/v3/runs/{run.id}"))
    assert "schedule" not in shown
    assert shown["payload"] == {"scheduleId": "sched_x"}
    assert run_ids(standin, "filter[schedule]=sched_x") == []


def test_the_rate_limit_gives_429_until_the_bucket_refills(standin: Standin, clock: Clock) -> None:
    standin.rate_limit = 3
    assert [send(standin, "/api/v1/runs").status for _ in range(4)] == [200, 200, 200, 429]
    reply = send(standin, "/api/v1/runs")
    recorded = recordings.recording("ratelimit_default_429")["response"]["body"]
    assert list(json.loads(reply.body)) == list(recorded)
    assert reply.content_type == "application/problem+json; charset=utf-8"
    assert "retry-after" not in {name.lower() for name in reply.headers}
    clock.now += timedelta(seconds=30)
    assert send(standin, "/api/v1/runs").status == 200


def test_the_state_survives_a_restart(tmp_path: Any) -> None:
    first = State(tmp_path)
    run = first.add_run(StandinRun("t", 1.0, tags=["a"], payload={"x": [1]}))
    first.close()
    second = State(tmp_path)
    assert second.run(run.id) == run
    second.close()
