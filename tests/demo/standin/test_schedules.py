"""The stand-in's schedules, compared with the recordings and the recorded special cases of the real server."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from demo.standin.messages import Reply, Request
from demo.standin.schedules import fire_due
from demo.standin.standin import Standin
from tests import recordings
from tests.demo.standin.conftest import HEADERS, Clock

PATH = "/api/v1/schedules"


def send(standin: Standin, method: str, path: str, body: Any = None) -> Reply:
    raw = b"" if body is None else json.dumps(body).encode()
    return standin.answer(Request(method, path, HEADERS, raw))


def send_ok(standin: Standin, method: str, path: str, body: Any = None) -> Any:
    reply = send(standin, method, path, body)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def create_schedule(standin: Standin, key: str = "k", **fields: Any) -> Any:
    values = {"task": "customer-prompt-task", "cron": "0 9 * * *", "deduplicationKey": key, **fields}
    return send_ok(standin, "POST", PATH, values)


@pytest.mark.parametrize(
    "name",
    [
        "sched_create_bad_timezone",
        "sched_create_missing_cron",
        "sched_create_nonscheduled_task",
        "sched_create_unknown_task",
        "sched_create_no_body",
        "sched_create_tz_Asia_Kolkata",
        "sched_get_unknown",
        "sched_delete_unknown",
        "sched_activate_unknown",
        "sched_list_page_beyond",
        "sched_put_bad_cron",
        "cron_6_fields_seconds",
        "cron_double_space",
        "cron_macro_daily",
    ],
)
def test_a_refusal_equals_the_recording(standin: Standin, name: str) -> None:
    method, target = recordings.target(name)
    body = recordings.recording(name)["request"]["body"]
    reply = send(standin, method, target, body)
    status, headers, expected = recordings.reply(name)
    assert (reply.status, reply.content_type) == (status, headers["content-type"])
    if name == "sched_list_page_beyond":
        assert json.loads(reply.body)["data"] == []
    elif "json" in reply.content_type:
        assert json.loads(reply.body) == json.loads(expected)


def assert_same_except_ids(shown: Any, recorded: Any) -> None:
    """Same keys in the same order, and equal values except for ids and effective times."""
    assert list(shown) == list(recorded)
    for key in shown.keys() - {"id", "nextRunEffectiveAt"}:
        assert shown[key] == recorded[key], key


def test_create_retrieve_and_list_have_the_recorded_shapes(standin: Standin) -> None:
    request = recordings.recording("sched_create_full")["request"]["body"]
    created = recordings.recording("sched_create_full")["response"]["body"]
    retrieved = recordings.recording("sched_get_full")["response"]["body"]
    assert_same_except_ids(send_ok(standin, "POST", PATH, request), created)
    assert_same_except_ids(send_ok(standin, "GET", f"{PATH}/full-1"), retrieved)
    listed, *_ = recordings.recording("sched_list_page2_per2")["response"]["body"]["data"]
    create_schedule(standin, "dk-tz5", timezone="Asia/Calcutta")
    shown = next(item for item in send_ok(standin, "GET", PATH)["data"] if item["deduplicationKey"] == "dk-tz5")
    assert_same_except_ids(shown, listed)


def test_a_deactivated_schedule_has_the_recorded_shape(standin: Standin) -> None:
    create_schedule(standin, "dk-1", cron="15 10 * * *")
    shown = send_ok(standin, "POST", f"{PATH}/dk-1/deactivate")
    assert_same_except_ids(shown, recordings.recording("sched_deactivate")["response"]["body"])


def test_the_same_deduplication_key_replaces_everything_except_active(standin: Standin) -> None:
    first = create_schedule(standin, externalId="e", timezone="Europe/Paris", window="30m")
    send_ok(standin, "POST", f"{PATH}/k/deactivate")
    updated = create_schedule(standin, cron="0 10 * * *")
    assert (updated["id"], updated["active"], updated["timezone"]) == (first["id"], False, "UTC")
    assert not updated.keys() & {"externalId", "window"}


def test_put_with_an_unknown_id_creates_a_schedule_without_a_deduplication_key(standin: Standin) -> None:
    created = send_ok(standin, "PUT", f"{PATH}/sched_unknown", {"task": "customer-prompt-task", "cron": "15 10 * * *"})
    assert_same_except_ids(created, recordings.recording("sched_put_unknown_id_creates")["response"]["body"])


def test_runs_no_longer_name_a_deleted_schedule(standin: Standin, clock: Clock) -> None:
    created = create_schedule(standin, cron="* * * * *")
    clock.now += timedelta(minutes=1)
    assert fire_due(standin.state) == 1
    assert send_ok(standin, "DELETE", f"{PATH}/k") == {"id": created["id"]}
    assert send(standin, "DELETE", f"{PATH}/k").status == 404
    assert send_ok(standin, "GET", f"/api/v1/runs?filter[schedule]={created['id']}")["data"] == []


def test_a_poisoned_schedule_breaks_the_list_until_it_is_deleted(standin: Standin) -> None:
    body = {"task": "customer-prompt-task", "cron": "0 9 * * L", "deduplicationKey": "poison"}
    assert send(standin, "POST", PATH, body).status == 500
    assert send(standin, "GET", PATH).body == b"Unexpected Server Error"
    assert send(standin, "DELETE", f"{PATH}/poison").status == 200
    assert send_ok(standin, "GET", PATH)["data"] == []


def test_a_poisoned_schedule_cannot_be_retrieved_or_activated(standin: Standin) -> None:
    body = {"task": "customer-prompt-task", "cron": "0 9 * * L", "deduplicationKey": "poison"}
    assert send(standin, "POST", PATH, body).status == 500
    assert send(standin, "GET", f"{PATH}/poison").status == 500
    assert send(standin, "POST", f"{PATH}/poison/activate").status == 500


@pytest.mark.parametrize("expression", ["@daily", "9 * *", "9 * * *", "0\t9\t*\t*\t*", "0 9 0L * L", "0 9 31 2,4 *"])
def test_a_broken_cron_expression_without_a_bare_l_weekday_leaves_no_schedule(
    standin: Standin, expression: str
) -> None:
    body = {"task": "customer-prompt-task", "cron": expression, "deduplicationKey": "broken"}
    assert send(standin, "POST", PATH, body).status == 500
    assert send(standin, "GET", f"{PATH}/broken").status == 404
    assert send_ok(standin, "GET", PATH)["data"] == []


def test_without_a_deployment_the_list_is_empty_but_retrieve_works(standin: Standin) -> None:
    create_schedule(standin)
    standin.state.deployed = False
    assert send_ok(standin, "GET", PATH) == {"data": [], "pagination": {"currentPage": 1, "totalPages": 1, "count": 0}}
    assert send_ok(standin, "GET", f"{PATH}/k")["active"] is True


def test_a_schedule_fires_on_time_with_the_recorded_payload(standin: Standin, clock: Clock) -> None:
    clock.now = datetime(2026, 11, 21, 22, 32, 30, tzinfo=UTC)
    created = create_schedule(
        standin, "minutely3", cron="* * * * *", timezone="America/New_York", externalId="the-task"
    )
    assert fire_due(standin.state) == 0
    clock.now += timedelta(seconds=31)
    assert (fire_due(standin.state), fire_due(standin.state)) == (1, 0)
    (run,) = send_ok(standin, "GET", f"/api/v1/runs?filter[schedule]={created['id']}")["data"]
    shown = send_ok(standin, "GET", f"/api/v3/runs/{run['id']}")
    recorded = recordings.recording("run_get_REAL_scheduled_ny_fire1")["response"]["body"]
    assert shown["createdAt"] == recorded["createdAt"]
    assert shown["payload"] == {**recorded["payload"], "scheduleId": created["id"], "externalId": "the-task"}
    assert list(shown["schedule"]) == list(recorded["schedule"])


def test_an_inactive_schedule_does_not_fire(standin: Standin, clock: Clock) -> None:
    create_schedule(standin, cron="* * * * *")
    send_ok(standin, "POST", f"{PATH}/k/deactivate")
    clock.now += timedelta(hours=1)
    assert fire_due(standin.state) == 0
    send_ok(standin, "POST", f"{PATH}/k/activate")
    clock.now += timedelta(minutes=1)
    assert fire_due(standin.state) == 1
