"""The stand-in's schedules, against the recordings and against what was recorded to surprise."""

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


def ask(standin: Standin, method: str, path: str, body: Any = None) -> Reply:
    raw = b"" if body is None else json.dumps(body).encode()
    return standin.answer(Request(method, path, HEADERS, raw))


def asked(standin: Standin, method: str, path: str, body: Any = None) -> Any:
    reply = ask(standin, method, path, body)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def create(standin: Standin, key: str = "k", **fields: Any) -> Any:
    made = {"task": "customer-prompt-task", "cron": "0 9 * * *", "deduplicationKey": key, **fields}
    return asked(standin, "POST", PATH, made)


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
def test_it_refuses_as_recorded(standin: Standin, name: str) -> None:
    method, target = recordings.target(name)
    body = recordings.recording(name)["request"]["body"]
    reply = ask(standin, method, target, body)
    status, headers, expected = recordings.reply(name)
    assert (reply.status, reply.content_type) == (status, headers["content-type"])
    if name == "sched_list_page_beyond":
        assert json.loads(reply.body)["data"] == []
    elif "json" in reply.content_type:
        assert json.loads(reply.body) == json.loads(expected)


def same_but_for_chance(shown: Any, recorded: Any) -> None:
    """The same keys in their order and the same values, ids and effective times aside."""
    assert list(shown) == list(recorded)
    for key in shown.keys() - {"id", "nextRunEffectiveAt"}:
        assert shown[key] == recorded[key], key


def test_a_schedule_is_written_and_read_in_the_recorded_shapes(standin: Standin) -> None:
    request = recordings.recording("sched_create_full")["request"]["body"]
    made = recordings.recording("sched_create_full")["response"]["body"]
    read = recordings.recording("sched_get_full")["response"]["body"]
    same_but_for_chance(asked(standin, "POST", PATH, request), made)
    same_but_for_chance(asked(standin, "GET", f"{PATH}/full-1"), read)
    listed, *_ = recordings.recording("sched_list_page2_per2")["response"]["body"]["data"]
    create(standin, "dk-tz5", timezone="Asia/Calcutta")
    shown = next(item for item in asked(standin, "GET", PATH)["data"] if item["deduplicationKey"] == "dk-tz5")
    same_but_for_chance(shown, listed)


def test_a_deactivated_schedule_has_the_recorded_shape(standin: Standin) -> None:
    create(standin, "dk-1", cron="15 10 * * *")
    shown = asked(standin, "POST", f"{PATH}/dk-1/deactivate")
    same_but_for_chance(shown, recordings.recording("sched_deactivate")["response"]["body"])


def test_the_same_key_replaces_all_but_active(standin: Standin) -> None:
    first = create(standin, externalId="e", timezone="Europe/Paris", window="30m")
    asked(standin, "POST", f"{PATH}/k/deactivate")
    again = create(standin, cron="0 10 * * *")
    assert (again["id"], again["active"], again["timezone"]) == (first["id"], False, "UTC")
    assert not again.keys() & {"externalId", "window"}


def test_put_on_an_unknown_id_makes_a_schedule_without_a_key(standin: Standin) -> None:
    made = asked(standin, "PUT", f"{PATH}/sched_unknown", {"task": "customer-prompt-task", "cron": "15 10 * * *"})
    same_but_for_chance(made, recordings.recording("sched_put_unknown_id_creates")["response"]["body"])


def test_a_deleted_schedule_is_gone_and_its_runs_no_longer_name_it(standin: Standin, clock: Clock) -> None:
    made = create(standin, cron="* * * * *")
    clock.now += timedelta(minutes=1)
    assert fire_due(standin.state) == 1
    assert asked(standin, "DELETE", f"{PATH}/k") == {"id": made["id"]}
    assert ask(standin, "DELETE", f"{PATH}/k").status == 404
    assert asked(standin, "GET", f"/api/v1/runs?filter[schedule]={made['id']}")["data"] == []


def test_a_poisoned_schedule_spoils_the_list_until_it_is_deleted(standin: Standin) -> None:
    body = {"task": "customer-prompt-task", "cron": "0 9 * * L", "deduplicationKey": "poison"}
    assert ask(standin, "POST", PATH, body).status == 500
    assert ask(standin, "GET", PATH).body == b"Unexpected Server Error"
    assert ask(standin, "DELETE", f"{PATH}/poison").status == 200
    assert asked(standin, "GET", PATH)["data"] == []


def test_a_poisoned_schedule_cannot_be_read_or_activated(standin: Standin) -> None:
    body = {"task": "customer-prompt-task", "cron": "0 9 * * L", "deduplicationKey": "poison"}
    assert ask(standin, "POST", PATH, body).status == 500
    assert ask(standin, "GET", f"{PATH}/poison").status == 500
    assert ask(standin, "POST", f"{PATH}/poison/activate").status == 500


@pytest.mark.parametrize("expression", ["@daily", "9 * *", "9 * * *", "0\t9\t*\t*\t*", "0 9 0L * L", "0 9 31 2,4 *"])
def test_a_cron_that_breaks_without_a_bare_l_weekday_leaves_no_schedule(standin: Standin, expression: str) -> None:
    body = {"task": "customer-prompt-task", "cron": expression, "deduplicationKey": "broken"}
    assert ask(standin, "POST", PATH, body).status == 500
    assert ask(standin, "GET", f"{PATH}/broken").status == 404
    assert asked(standin, "GET", PATH)["data"] == []


def test_without_a_deployment_the_list_is_empty_and_getting_one_works(standin: Standin) -> None:
    create(standin)
    standin.state.deployed = False
    assert asked(standin, "GET", PATH) == {"data": [], "pagination": {"currentPage": 1, "totalPages": 1, "count": 0}}
    assert asked(standin, "GET", f"{PATH}/k")["active"] is True


def test_it_fires_on_time_with_the_recorded_payload(standin: Standin, clock: Clock) -> None:
    clock.now = datetime(2026, 11, 21, 22, 32, 30, tzinfo=UTC)
    made = create(standin, "minutely3", cron="* * * * *", timezone="America/New_York", externalId="the-task")
    assert fire_due(standin.state) == 0
    clock.now += timedelta(seconds=31)
    assert (fire_due(standin.state), fire_due(standin.state)) == (1, 0)
    (run,) = asked(standin, "GET", f"/api/v1/runs?filter[schedule]={made['id']}")["data"]
    shown = asked(standin, "GET", f"/api/v3/runs/{run['id']}")
    recorded = recordings.recording("run_get_REAL_scheduled_ny_fire1")["response"]["body"]
    assert shown["createdAt"] == recorded["createdAt"]
    assert shown["payload"] == {**recorded["payload"], "scheduleId": made["id"], "externalId": "the-task"}
    assert list(shown["schedule"]) == list(recorded["schedule"])


def test_an_inactive_schedule_does_not_fire(standin: Standin, clock: Clock) -> None:
    create(standin, cron="* * * * *")
    asked(standin, "POST", f"{PATH}/k/deactivate")
    clock.now += timedelta(hours=1)
    assert fire_due(standin.state) == 0
    asked(standin, "POST", f"{PATH}/k/activate")
    clock.now += timedelta(minutes=1)
    assert fire_due(standin.state) == 1
