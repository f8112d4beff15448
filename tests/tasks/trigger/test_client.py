"""TriggerClient against recordings of the real server, against malformed answers and against network failures."""

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
from tasks.trigger.responses import as_run_page, parsed
from tests import recordings

URL = "http://replayed.test"
RUN = {"id": "run_x", "status": "QUEUED", "taskIdentifier": "t", "createdAt": "", "updatedAt": ""}


@pytest.fixture
def client() -> TriggerClient:
    return TriggerClient(URL + "/", "tr_prod_secret")


@pytest.fixture
def mock_http() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def replay(mock_http: responses.RequestsMock, name: str) -> None:
    status, headers, body = recordings.reply(name)
    path = "/api/v1/runs" if name.startswith(("runs_list", "ratelimit")) else "/api/v3/runs/run_x"
    mock_http.get(URL + path, status=status, body=body, content_type=headers.pop("content-type"), headers=headers)


def near_deadline() -> float:
    return time.monotonic() + 5


@pytest.mark.parametrize("name", [name for name in recordings.names("run_get_") if recordings.reply(name)[0] == 200])
def test_a_recorded_run_is_returned_unchanged(
    client: TriggerClient, mock_http: responses.RequestsMock, name: str
) -> None:
    replay(mock_http, name)
    assert client.retrieve_run("run_x", deadline=near_deadline()) == recordings.recording(name)["response"]["body"]


@pytest.mark.parametrize("name", [name for name in recordings.names("runs_list_") if recordings.reply(name)[0] == 200])
def test_a_recorded_list_of_runs_is_returned_unchanged(
    client: TriggerClient, mock_http: responses.RequestsMock, name: str
) -> None:
    replay(mock_http, name)
    body = recordings.recording(name)["response"]["body"]
    page = client.list_runs(schedule_id="sched_x", limit=20, deadline=near_deadline())
    assert (page.runs, page.next) == (body["data"], body["pagination"].get("next"))


def test_a_list_by_tag_holds_no_run_without_the_tag(client: TriggerClient, mock_http: responses.RequestsMock) -> None:
    found: tuple[Any, ...] = (
        ["account:x"],
        ["a", "account:x"],
        [],
        None,
        "account:x",
        ["account:xy"],
        {"account:x": 1},
        5,
    )
    items = [{**RUN, "id": f"run_{number}", "tags": tags} for number, tags in enumerate(found)]
    mock_http.get(f"{URL}/api/v1/runs", json={"data": items, "pagination": {"next": "more"}})
    page = client.list_runs(tag="account:x", limit=20, deadline=near_deadline())
    assert ([run["id"] for run in page.runs], page.next) == (["run_0", "run_1"], "more")


RECORDED_SCHEDULES = [
    name
    for name in recordings.names("sched_")
    if recordings.reply(name)[0] == 200 and not name.startswith(("sched_list", "sched_delete"))
]


@pytest.mark.parametrize("name", RECORDED_SCHEDULES)
def test_every_recorded_shape_of_a_schedule_is_parsed(
    client: TriggerClient, mock_http: responses.RequestsMock, name: str
) -> None:
    _, _, body = recordings.reply(name)
    mock_http.get(f"{URL}/api/v1/schedules/k", body=body)
    recorded = recordings.recording(name)["response"]["body"]
    schedule = client.retrieve_schedule("k", deadline=near_deadline())
    assert (schedule.id, schedule.active, schedule.cron) == (
        recorded["id"],
        recorded["active"],
        recorded["generator"]["expression"],
    )
    assert (schedule.key, schedule.external_id) == (recorded.get("deduplicationKey"), recorded.get("externalId"))


@pytest.mark.parametrize("name", ["sched_list", "sched_list_page2_per2", "sched_list_page_beyond"])
def test_a_recorded_list_of_schedules_is_parsed(
    client: TriggerClient, mock_http: responses.RequestsMock, name: str
) -> None:
    _, _, body = recordings.reply(name)
    mock_http.get(f"{URL}/api/v1/schedules", body=body)
    recorded = recordings.recording(name)["response"]["body"]
    page = client.list_schedules(page=1, deadline=near_deadline())
    assert [schedule.id for schedule in page.schedules] == [item["id"] for item in recorded["data"]]
    assert page.count == recorded["pagination"]["count"]


def test_a_write_is_never_retried(client: TriggerClient, mock_http: responses.RequestsMock) -> None:
    mock_http.post(f"{URL}/api/v1/schedules", status=500, body="Unexpected Server Error")
    with pytest.raises(errors.Failed):
        client.put_schedule(
            key="k", task="t", cron="* * * * *", timezone="UTC", external_id="e", deadline=near_deadline()
        )
    assert len(mock_http.calls) == 1


def test_a_schedule_key_is_escaped_in_the_path(client: TriggerClient, mock_http: responses.RequestsMock) -> None:
    mock_http.delete(f"{URL}/api/v1/schedules/staging%2Fx", json={"id": "sched_x"})
    client.delete_schedule("staging/x", deadline=near_deadline())
    assert len(mock_http.calls) == 1


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
def test_each_recorded_refusal_raises_its_error_class_without_the_api_key(
    client: TriggerClient, mock_http: responses.RequestsMock, name: str, kind: type[errors.TriggerError]
) -> None:
    replay(mock_http, name)
    retrieve = partial(client.retrieve_run, "run_x", deadline=near_deadline())
    list_runs = partial(client.list_runs, tag="x", limit=20, deadline=near_deadline())
    call: Any = retrieve if name.startswith("run_get") else list_runs
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert "tr_prod_secret" not in str(caught.value)


def test_retry_after_of_a_429_is_computed_from_the_reset_in_milliseconds(
    client: TriggerClient, mock_http: responses.RequestsMock
) -> None:
    replay(mock_http, "ratelimit_default_429")
    reset = int(recordings.reply("ratelimit_default_429")[1]["x-ratelimit-reset"])
    with time_machine.travel(reset / 1000 - 1.796, tick=False), pytest.raises(errors.TooManyRequests) as caught:
        client.list_runs(tag="account:x", limit=20, deadline=near_deadline())
    assert caught.value.retry_after == pytest.approx(1.796, abs=0.01)


@pytest.mark.parametrize(("clock_offset", "seconds"), [(0, 3.0), (2, 3.0), (-2, 5.0), (300, 3.0), (-300, 3.0)])
def test_retry_after_of_a_429_is_bounded_when_our_clock_is_wrong(
    client: TriggerClient, mock_http: responses.RequestsMock, clock_offset: float, seconds: float
) -> None:
    headers = {"x-ratelimit-reset": "1795300003000"}
    mock_http.get(f"{URL}/api/v3/runs/run_x", status=429, json={"error": "x", "secondsUntilReset": 3}, headers=headers)
    our_time = 1_795_300_000 + clock_offset
    with time_machine.travel(our_time, tick=False), pytest.raises(errors.TooManyRequests) as caught:
        client.retrieve_run("run_x", deadline=near_deadline())
    assert caught.value.retry_after == pytest.approx(seconds)


@pytest.mark.parametrize("seconds", [10**400, "soon", None, -1e999, [], True])
def test_a_429_with_a_malformed_body_is_still_a_rate_limit(
    client: TriggerClient, mock_http: responses.RequestsMock, seconds: Any
) -> None:
    mock_http.get(f"{URL}/api/v3/runs/run_x", status=429, body=json.dumps({"error": "x", "secondsUntilReset": seconds}))
    with pytest.raises(errors.TooManyRequests) as caught:
        client.retrieve_run("run_x", deadline=near_deadline())
    assert 0 <= caught.value.retry_after <= 600


def test_a_retry_that_the_gate_refuses_raises_the_error_of_the_first_try(mock_http: responses.RequestsMock) -> None:
    """The first try may have started the run, so the error must not say that nothing was sent."""
    routes = []

    @contextmanager
    def refuse_second_call(route: str, *, patience: float) -> Iterator[None]:
        routes.append(route)
        if len(routes) > 1:
            raise errors.NotSent(retry_after=1, reason="circuit_open")
        yield

    mock_http.post(f"{URL}/api/v1/tasks/t/trigger", status=503, body="")
    client = TriggerClient(URL, "tr_prod_secret", refuse_second_call)
    with pytest.raises(errors.Failed):
        client.trigger_run("t", payload={}, tags=[], idempotency_key="k", deadline=near_deadline())
    assert routes == ["trigger", "trigger"]


@pytest.mark.parametrize("status", [400, 422, 404, 429])
def test_characters_that_no_database_stores_are_replaced_in_error_messages(
    client: TriggerClient, mock_http: responses.RequestsMock, status: int
) -> None:
    mock_http.get(f"{URL}/api/v3/runs/run_x", status=status, body='{"error": "bad \\ud800 and \\u0000 thing"}')
    with pytest.raises(errors.TriggerError) as caught:
        client.retrieve_run("run_x", deadline=near_deadline())
    assert str(caught.value).endswith("bad ? and ? thing")


@pytest.mark.parametrize("run_id", ["", "run_\ud800", "run_é", "run_\n", "x" * 101, 7, None])
def test_an_invalid_id_of_a_started_run_is_a_broken_answer(
    client: TriggerClient, mock_http: responses.RequestsMock, run_id: Any
) -> None:
    mock_http.post(f"{URL}/api/v1/tasks/t/trigger", body=json.dumps({"id": run_id}))
    with pytest.raises(errors.BrokenAnswer):
        client.trigger_run("t", payload={}, tags=[], idempotency_key="k", deadline=near_deadline())


def run_json(fields: dict[str, Any]) -> str:
    return json.dumps({**RUN, **fields})


UNEXPECTED_ANSWERS = {
    "text 500": (500, "Unexpected Server Error", errors.Failed),
    "html 502": (502, "<html>Bad Gateway</html>", errors.Failed),
    "html 404": (404, "<!DOCTYPE html>", errors.BrokenAnswer),
    "redirect": (301, "", errors.BrokenAnswer),
    "truncated json": (200, '{"id": "run_', errors.BrokenAnswer),
    "not json": (200, "ok", errors.BrokenAnswer),
    "empty": (200, "", errors.BrokenAnswer),
    "deeply nested": (200, "[" * 100_000, errors.BrokenAnswer),
    "null": (200, "null", errors.BrokenAnswer),
    "a list": (200, "[]", errors.BrokenAnswer),
    "without an id": (200, '{"status": "QUEUED"}', errors.BrokenAnswer),
    "tags not a list": (200, run_json({"tags": "a"}), errors.BrokenAnswer),
    "related runs not an object": (200, run_json({"relatedRuns": [1]}), errors.BrokenAnswer),
    "a related run without fields": (200, run_json({"relatedRuns": {"children": [{}]}}), errors.BrokenAnswer),
    "a null child run": (200, run_json({"relatedRuns": {"children": [None]}}), errors.BrokenAnswer),
    "data nested too deeply": (200, '{"data": ' + "[" * 450 + "]" * 450 + "}", errors.BrokenAnswer),
    "418": (418, '{"error": "teapot"}', errors.BrokenAnswer),
}


@pytest.mark.parametrize("case", UNEXPECTED_ANSWERS)
def test_an_unexpected_answer_raises_its_error_class(
    client: TriggerClient, mock_http: responses.RequestsMock, case: str
) -> None:
    status, body, kind = UNEXPECTED_ANSWERS[case]
    mock_http.get(f"{URL}/api/v3/runs/run_x", status=status, body=body, headers={"location": "http://evil.test/"})
    with pytest.raises(kind):
        client.retrieve_run("run_x", deadline=near_deadline())


@pytest.mark.parametrize(
    ("raised", "kind", "tries"),
    [
        (requests.ConnectionError("refused"), errors.NotReached, 2),
        (requests.ConnectTimeout(), errors.TimedOut, 1),
        (requests.ReadTimeout(), errors.TimedOut, 1),
        (requests.exceptions.InvalidSchema(), errors.BrokenAnswer, 1),
    ],
)
def test_only_connection_errors_are_retried_and_only_once(
    client: TriggerClient, mock_http: responses.RequestsMock, raised: Exception, kind: type[Exception], tries: int
) -> None:
    mock_http.get(f"{URL}/api/v3/runs/run_x", body=raised)
    with pytest.raises(kind):
        client.retrieve_run("run_x", deadline=near_deadline())
    assert len(mock_http.calls) == tries


def test_a_retry_may_succeed(client: TriggerClient, mock_http: responses.RequestsMock) -> None:
    mock_http.get(f"{URL}/api/v3/runs/run_x", status=503)
    mock_http.get(f"{URL}/api/v3/runs/run_x", json=RUN)
    assert client.retrieve_run("run_x", deadline=near_deadline()) == RUN


def test_nothing_is_sent_after_the_deadline(client: TriggerClient, mock_http: responses.RequestsMock) -> None:
    with pytest.raises(errors.TimedOut):
        client.retrieve_run("run_x", deadline=time.monotonic() - 1)
    assert len(mock_http.calls) == 0


def test_numbers_that_json_does_not_allow_become_null(client: TriggerClient, mock_http: responses.RequestsMock) -> None:
    mock_http.get(
        f"{URL}/api/v3/runs/run_x", body=run_json({"metadata": 1}).replace('"metadata": 1', '"metadata": [1e999, NaN]')
    )
    assert client.retrieve_run("run_x", deadline=near_deadline())["metadata"] == [None, None]  # type: ignore[typeddict-item]


@pytest.mark.parametrize("reset", ["nan", "inf", "soon", "", "-1e999"])
def test_a_429_with_a_malformed_reset_header_has_the_default_retry_after(
    client: TriggerClient, mock_http: responses.RequestsMock, reset: str
) -> None:
    mock_http.get(f"{URL}/api/v3/runs/run_x", status=429, json={"error": "x"}, headers={"x-ratelimit-reset": reset})
    with pytest.raises(errors.TooManyRequests) as caught:
        client.retrieve_run("run_x", deadline=near_deadline())
    assert caught.value.retry_after == 10


def test_a_run_id_is_escaped_in_the_path(client: TriggerClient, mock_http: responses.RequestsMock) -> None:
    mock_http.get(f"{URL}/api/v3/runs/a%2F..%2Fb%3Fc", json=RUN)
    client.retrieve_run("a/../b?c", deadline=near_deadline())
    assert mock_http.calls[0].request.url == f"{URL}/api/v3/runs/a%2F..%2Fb%3Fc"


def test_a_list_request_has_one_filter_a_period_and_no_version_header(
    client: TriggerClient, mock_http: responses.RequestsMock
) -> None:
    mock_http.get(f"{URL}/api/v1/runs", json={"data": [], "pagination": {}})
    client.list_runs(schedule_id="sched_x&filter[tag]=y", limit=5, deadline=near_deadline())
    request = mock_http.calls[0].request
    assert parse_qs(urlsplit(str(request.url)).query) == {
        "filter[schedule]": ["sched_x&filter[tag]=y"],
        "filter[createdAt][period]": ["3650d"],
        "page[size]": ["5"],
    }
    assert request.headers["Authorization"] == "Bearer tr_prod_secret"
    assert "x-trigger-api-version" not in request.headers


@pytest.mark.parametrize("filters", [{}, {"tag": ""}, {"tag": " "}, {"tag": "a,b"}, {"tag": "a", "schedule_id": "b"}])
def test_a_filter_that_trigger_would_ignore_is_not_sent(
    client: TriggerClient, mock_http: responses.RequestsMock, filters: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="One schedule or one tag"):
        client.list_runs(**filters, limit=5, deadline=near_deadline())
    assert len(mock_http.calls) == 0


# --- One item of a list must not hide the others ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "is_kept"),
    [
        ("[" * 900 + "]" * 900, False),
        ("[" * 100_000 + "]" * 100_000, False),
        ('{"a": ' * 2000 + "1" + "}" * 2000, False),
        ("9" * 5000, True),
        ('"' + "x" * 6_000_000 + '"', True),
        ('"a quote \\" and brackets ]}"', True),
        ("NaN", True),
    ],
    ids=["900 levels", "100,000 levels", "2,000 objects", "5,000 digits", "6 MB", "brackets in a text", "NaN"],
)
def test_an_item_that_cannot_be_decoded_is_left_out_alone(metadata: str, is_kept: bool) -> None:
    odd = f'{{"id": "run_odd", "metadata": {metadata}}}'
    body = f'{{"data": [{{"id": "run_a"}}, {odd}, {{"id": "run_b", "data": []}}], "pagination": {{"next": "x"}}}}'
    page = as_run_page(parsed(body.encode()))
    expected = ["run_a", "run_odd", "run_b"] if is_kept else ["run_a", "run_b"]
    assert ([run["id"] for run in page.runs], page.next) == (expected, "x")


@pytest.mark.parametrize(
    "body",
    ["", "[", '{"data": [', '{"data": [{]}', '{"data": 1}}', '{"a": [' + "[" * 900 + "]" * 900 + "]}", '{"data": []]'],
)
def test_what_is_no_json_is_no_answer(body: str) -> None:
    assert parsed(body.encode()) is None
