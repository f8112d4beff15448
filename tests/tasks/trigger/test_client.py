"""The client against what the real server answered, and against what a network does."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses
import time_machine

from tasks.trigger import errors
from tasks.trigger.client import TriggerClient
from tests import recordings

URL = "http://replayed.test"
A_RUN = {"id": "run_x", "status": "QUEUED", "taskIdentifier": "t", "createdAt": "", "updatedAt": ""}


@pytest.fixture
def client() -> TriggerClient:
    return TriggerClient(URL + "/", "tr_prod_secret")


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def replay(wire: responses.RequestsMock, name: str) -> None:
    status, headers, body = recordings.reply(name)
    path = "/api/v1/runs" if name.startswith(("runs_list", "ratelimit")) else "/api/v3/runs/run_x"
    wire.get(URL + path, status=status, body=body, content_type=headers.pop("content-type"), headers=headers)


def soon() -> float:
    return time.monotonic() + 5


@pytest.mark.parametrize("name", [name for name in recordings.names("run_get_") if recordings.reply(name)[0] == 200])
def test_a_recorded_run_comes_back_as_it_was_sent(
    client: TriggerClient, wire: responses.RequestsMock, name: str
) -> None:
    replay(wire, name)
    assert client.retrieve_run("run_x", deadline=soon()) == recordings.recording(name)["response"]["body"]


@pytest.mark.parametrize("name", [name for name in recordings.names("runs_list_") if recordings.reply(name)[0] == 200])
def test_a_recorded_list_comes_back_as_it_was_sent(
    client: TriggerClient, wire: responses.RequestsMock, name: str
) -> None:
    replay(wire, name)
    body = recordings.recording(name)["response"]["body"]
    page = client.list_runs(tag="account:x", limit=20, deadline=soon())
    assert (page.runs, page.next) == (body["data"], body["pagination"].get("next"))


RECORDED_SCHEDULES = [
    name
    for name in recordings.names("sched_")
    if recordings.reply(name)[0] == 200 and not name.startswith(("sched_list", "sched_delete"))
]


@pytest.mark.parametrize("name", RECORDED_SCHEDULES)
def test_a_recorded_schedule_is_read_in_each_of_its_shapes(
    client: TriggerClient, wire: responses.RequestsMock, name: str
) -> None:
    _, _, body = recordings.reply(name)
    wire.get(f"{URL}/api/v1/schedules/k", body=body)
    recorded = recordings.recording(name)["response"]["body"]
    schedule = client.retrieve_schedule("k", deadline=soon())
    assert (schedule.id, schedule.active, schedule.cron) == (
        recorded["id"],
        recorded["active"],
        recorded["generator"]["expression"],
    )
    assert (schedule.key, schedule.external_id) == (recorded.get("deduplicationKey"), recorded.get("externalId"))


@pytest.mark.parametrize("name", ["sched_list", "sched_list_page2_per2", "sched_list_page_beyond"])
def test_a_recorded_list_of_schedules_is_read(client: TriggerClient, wire: responses.RequestsMock, name: str) -> None:
    _, _, body = recordings.reply(name)
    wire.get(f"{URL}/api/v1/schedules", body=body)
    recorded = recordings.recording(name)["response"]["body"]
    page = client.list_schedules(page=1, deadline=soon())
    assert [schedule.id for schedule in page.schedules] == [item["id"] for item in recorded["data"]]
    assert page.count == recorded["pagination"]["count"]


def test_a_write_is_sent_once(client: TriggerClient, wire: responses.RequestsMock) -> None:
    wire.post(f"{URL}/api/v1/schedules", status=500, body="Unexpected Server Error")
    with pytest.raises(errors.Failed):
        client.put_schedule(key="k", task="t", cron="* * * * *", timezone="UTC", external_id="e", deadline=soon())
    assert len(wire.calls) == 1


def test_a_key_is_escaped_into_the_path(client: TriggerClient, wire: responses.RequestsMock) -> None:
    wire.delete(f"{URL}/api/v1/schedules/staging%2Fx", json={"id": "sched_x"})
    client.delete_schedule("staging/x", deadline=soon())
    assert len(wire.calls) == 1


REFUSALS = {
    "run_get_unknown": errors.NotFound,
    "run_get_malformed": errors.NotFound,
    "run_get_v1_path": errors.BrokenAnswer,
    "run_get_no_auth": errors.Refused,
    "run_get_wrong_key": errors.Refused,
    "run_get_POSTGRES_DOWN": errors.Failed,
    "runs_list_CLICKHOUSE_DOWN_500": errors.Failed,
    "runs_list_no_auth": errors.Refused,
    "runs_list_wrong_key": errors.Refused,
    "runs_list_size_0": errors.Refused,
    "runs_list_size_101": errors.Refused,
    "ratelimit_default_429": errors.TooManyRequests,
}


@pytest.mark.parametrize(("name", "kind"), REFUSALS.items())
def test_a_recorded_refusal_is_told_by_what_can_be_done_about_it(
    client: TriggerClient, wire: responses.RequestsMock, name: str, kind: type[errors.TriggerError]
) -> None:
    replay(wire, name)
    retrieve = partial(client.retrieve_run, "run_x", deadline=soon())
    ask: Any = retrieve if name.startswith("run_get") else partial(client.list_runs, tag="x", limit=20, deadline=soon())
    with pytest.raises(kind) as caught:
        ask()
    assert type(caught.value) is kind
    assert "tr_prod_secret" not in str(caught.value)


def test_a_429_says_how_long_to_wait_from_the_reset_in_milliseconds(
    client: TriggerClient, wire: responses.RequestsMock
) -> None:
    replay(wire, "ratelimit_default_429")
    reset = int(recordings.reply("ratelimit_default_429")[1]["x-ratelimit-reset"])
    with time_machine.travel(reset / 1000 - 1.796, tick=False), pytest.raises(errors.TooManyRequests) as caught:
        client.list_runs(tag="account:x", limit=20, deadline=soon())
    assert caught.value.retry_after == pytest.approx(1.796, abs=0.01)


@pytest.mark.parametrize(("ours_is_ahead", "seconds"), [(0, 3.0), (2, 3.0), (-2, 5.0), (300, 3.0), (-300, 3.0)])
def test_a_429_is_waited_out_whatever_our_clock_says(
    client: TriggerClient, wire: responses.RequestsMock, ours_is_ahead: float, seconds: float
) -> None:
    headers = {"x-ratelimit-reset": "1795300003000"}
    wire.get(f"{URL}/api/v3/runs/run_x", status=429, json={"error": "x", "secondsUntilReset": 3}, headers=headers)
    ours = 1_795_300_000 + ours_is_ahead
    with time_machine.travel(ours, tick=False), pytest.raises(errors.TooManyRequests) as caught:
        client.retrieve_run("run_x", deadline=soon())
    assert caught.value.retry_after == pytest.approx(seconds)


@pytest.mark.parametrize("told", [10**400, "soon", None, -1e999, [], True])
def test_a_429_with_nonsense_in_its_body_is_still_one(
    client: TriggerClient, wire: responses.RequestsMock, told: Any
) -> None:
    wire.get(f"{URL}/api/v3/runs/run_x", status=429, body=json.dumps({"error": "x", "secondsUntilReset": told}))
    with pytest.raises(errors.TooManyRequests) as caught:
        client.retrieve_run("run_x", deadline=soon())
    assert 0 <= caught.value.retry_after <= 600


def test_that_the_first_try_was_sent_is_not_forgotten_when_the_second_may_not_be(wire: responses.RequestsMock) -> None:
    """It may have started the run: then nobody may say that nothing was sent."""
    passed = []

    @contextmanager
    def gate(route: str, *, patience: float) -> Iterator[None]:
        passed.append(route)
        if len(passed) > 1:
            raise errors.NotSent(retry_after=1, reason="circuit_open")
        yield

    wire.post(f"{URL}/api/v1/tasks/t/trigger", status=503, body="")
    strict = TriggerClient(URL, "tr_prod_secret", gate)
    with pytest.raises(errors.Failed):
        strict.trigger_run("t", payload={}, tags=[], idempotency_key="k", deadline=soon())
    assert passed == ["trigger", "trigger"]


@pytest.mark.parametrize("status", [400, 422, 404, 429])
def test_what_no_database_takes_is_not_in_the_words_of_a_refusal(
    client: TriggerClient, wire: responses.RequestsMock, status: int
) -> None:
    wire.get(f"{URL}/api/v3/runs/run_x", status=status, body='{"error": "bad \\ud800 and \\u0000 thing"}')
    with pytest.raises(errors.TriggerError) as caught:
        client.retrieve_run("run_x", deadline=soon())
    assert str(caught.value).endswith("bad ? and ? thing")


@pytest.mark.parametrize("run_id", ["", "run_\ud800", "run_é", "run_\n", "x" * 101, 7, None])
def test_a_started_run_has_an_id_that_is_one(client: TriggerClient, wire: responses.RequestsMock, run_id: Any) -> None:
    wire.post(f"{URL}/api/v1/tasks/t/trigger", body=json.dumps({"id": run_id}))
    with pytest.raises(errors.BrokenAnswer):
        client.trigger_run("t", payload={}, tags=[], idempotency_key="k", deadline=soon())


def run_with(fields: dict[str, Any]) -> str:
    return json.dumps({**A_RUN, **fields})


NOT_WHAT_WAS_ASKED = {
    "text 500": (500, "Unexpected Server Error", errors.Failed),
    "html 502": (502, "<html>Bad Gateway</html>", errors.Failed),
    "html 404": (404, "<!DOCTYPE html>", errors.BrokenAnswer),
    "redirect": (301, "", errors.BrokenAnswer),
    "cut json": (200, '{"id": "run_', errors.BrokenAnswer),
    "no json": (200, "ok", errors.BrokenAnswer),
    "empty": (200, "", errors.BrokenAnswer),
    "deep": (200, "[" * 100_000, errors.BrokenAnswer),
    "null": (200, "null", errors.BrokenAnswer),
    "a list": (200, "[]", errors.BrokenAnswer),
    "without an id": (200, '{"status": "QUEUED"}', errors.BrokenAnswer),
    "tags no list": (200, run_with({"tags": "a"}), errors.BrokenAnswer),
    "relatives no object": (200, run_with({"relatedRuns": [1]}), errors.BrokenAnswer),
    "a relative no run": (200, run_with({"relatedRuns": {"children": [{}]}}), errors.BrokenAnswer),
    "a child that is null": (200, run_with({"relatedRuns": {"children": [None]}}), errors.BrokenAnswer),
    "too deep": (200, '{"data": ' + "[" * 450 + "]" * 450 + "}", errors.BrokenAnswer),
    "418": (418, '{"error": "teapot"}', errors.BrokenAnswer),
}


@pytest.mark.parametrize("case", NOT_WHAT_WAS_ASKED)
def test_an_answer_that_is_not_what_was_asked_for(
    client: TriggerClient, wire: responses.RequestsMock, case: str
) -> None:
    status, body, kind = NOT_WHAT_WAS_ASKED[case]
    wire.get(f"{URL}/api/v3/runs/run_x", status=status, body=body, headers={"location": "http://evil.test/"})
    with pytest.raises(kind):
        client.retrieve_run("run_x", deadline=soon())


@pytest.mark.parametrize(
    ("raised", "kind", "tries"),
    [
        (requests.ConnectionError("refused"), errors.NotReached, 2),
        (requests.ConnectTimeout(), errors.TimedOut, 1),
        (requests.ReadTimeout(), errors.TimedOut, 1),
        (requests.exceptions.InvalidSchema(), errors.BrokenAnswer, 1),
    ],
)
def test_only_what_may_go_better_is_tried_again_and_only_once(
    client: TriggerClient, wire: responses.RequestsMock, raised: Exception, kind: type[Exception], tries: int
) -> None:
    wire.get(f"{URL}/api/v3/runs/run_x", body=raised)
    with pytest.raises(kind):
        client.retrieve_run("run_x", deadline=soon())
    assert len(wire.calls) == tries


def test_a_second_try_may_succeed(client: TriggerClient, wire: responses.RequestsMock) -> None:
    wire.get(f"{URL}/api/v3/runs/run_x", status=503)
    wire.get(f"{URL}/api/v3/runs/run_x", json=A_RUN)
    assert client.retrieve_run("run_x", deadline=soon()) == A_RUN


def test_nothing_is_sent_when_the_time_is_up(client: TriggerClient, wire: responses.RequestsMock) -> None:
    with pytest.raises(errors.TimedOut):
        client.retrieve_run("run_x", deadline=time.monotonic() - 1)
    assert len(wire.calls) == 0


def test_a_number_that_is_none_in_json_becomes_null(client: TriggerClient, wire: responses.RequestsMock) -> None:
    wire.get(
        f"{URL}/api/v3/runs/run_x", body=run_with({"metadata": 1}).replace('"metadata": 1', '"metadata": [1e999, NaN]')
    )
    assert client.retrieve_run("run_x", deadline=soon())["metadata"] == [None, None]  # type: ignore[typeddict-item]


@pytest.mark.parametrize("reset", ["nan", "inf", "soon", "", "-1e999"])
def test_a_429_with_a_broken_reset_still_says_how_long_to_wait(
    client: TriggerClient, wire: responses.RequestsMock, reset: str
) -> None:
    wire.get(f"{URL}/api/v3/runs/run_x", status=429, json={"error": "x"}, headers={"x-ratelimit-reset": reset})
    with pytest.raises(errors.TooManyRequests) as caught:
        client.retrieve_run("run_x", deadline=soon())
    assert caught.value.retry_after == 10


def test_an_id_is_escaped_into_the_path(client: TriggerClient, wire: responses.RequestsMock) -> None:
    wire.get(f"{URL}/api/v3/runs/a%2F..%2Fb%3Fc", json=A_RUN)
    client.retrieve_run("a/../b?c", deadline=soon())
    assert wire.calls[0].request.url == f"{URL}/api/v3/runs/a%2F..%2Fb%3Fc"


def test_a_list_has_one_filter_a_period_and_no_version_header(
    client: TriggerClient, wire: responses.RequestsMock
) -> None:
    wire.get(f"{URL}/api/v1/runs", json={"data": [], "pagination": {}})
    client.list_runs(schedule_id="sched_x&filter[tag]=y", limit=5, deadline=soon())
    request = wire.calls[0].request
    assert parse_qs(urlsplit(str(request.url)).query) == {
        "filter[schedule]": ["sched_x&filter[tag]=y"],
        "filter[createdAt][period]": ["3650d"],
        "page[size]": ["5"],
    }
    assert request.headers["Authorization"] == "Bearer tr_prod_secret"
    assert "x-trigger-api-version" not in request.headers


@pytest.mark.parametrize("filters", [{}, {"tag": ""}, {"tag": " "}, {"tag": "a,b"}, {"tag": "a", "schedule_id": "b"}])
def test_a_filter_that_would_widen_the_answer_is_not_sent(
    client: TriggerClient, wire: responses.RequestsMock, filters: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="One schedule or one tag"):
        client.list_runs(**filters, limit=5, deadline=soon())
    assert len(wire.calls) == 0
