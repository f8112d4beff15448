"""MCP at /mcp: every tool is a request of the API with the caller's own credential."""

import json
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from accounts.models import ArtistLink, Event
from core.errors import INTERNAL
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.api.mcp import TOOLS, VERSIONS
from tasks.models import Task
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

HEADERS = {"Accept": "application/json, text/event-stream"}


def send(api: ContractClient, message: Any, **headers: str) -> Any:
    body = json.dumps(message)
    return api.post("/mcp", body, content_type="application/json", headers={**HEADERS, **headers})


def rpc(api: ContractClient, method: str, params: Any = None) -> Any:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, **({} if params is None else {"params": params})}
    response = send(api, message)
    assert response.status_code == 200
    assert (response["content-type"], response.json()["id"]) == ("application/json", 1)
    return response.json()


def call(api: ContractClient, tool: str, **arguments: Any) -> Any:
    """The body of the answer, or the text of an error."""
    result = rpc(api, "tools/call", {"name": tool, "arguments": arguments})["result"]
    (content,) = result["content"]
    return content["text"] if result["isError"] else json.loads(content["text"])


@pytest.fixture
def artist_id(cast: Cast) -> str:
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    return str(cast.artist.pk)


def test_a_days_work(alice_api: ContractClient, cast: Cast, artist_id: str) -> None:
    artists = call(alice_api, "list_artists")["artists"]
    assert artist_id in [artist["account_id"] for artist in artists]
    assert call(alice_api, "preview_schedule", schedule="0 9 * * 1-5")["description"].startswith("At 09:00 AM")
    body = {"title": "Report", "prompt": "Write it.", "schedule": "0 9 * * *", "artist_account_id": artist_id}
    task_id = call(alice_api, "create_task", **body)["tasks"][0]["id"]
    assert [task["id"] for task in call(alice_api, "list_tasks")["tasks"]] == [task_id]
    assert call(alice_api, "pause_task", id=task_id)["tasks"][0]["enabled"] is False
    assert call(alice_api, "resume_task", id=task_id)["tasks"][0]["enabled"] is True
    assert call(alice_api, "update_task", id=task_id, title="New")["tasks"][0]["title"] == "New"
    assert call(alice_api, "get_task", id=task_id)["tasks"][0]["title"] == "New"
    run_id = call(alice_api, "run_task_now", id=task_id)["runs"][0]["id"]
    assert call(alice_api, "get_run", runId=run_id)["runs"][0]["id"] == run_id
    assert [run["id"] for run in call(alice_api, "list_runs", task_id=task_id)["runs"]] == [run_id]
    assert call(alice_api, "get_task_run_status", runId=run_id)["runs"][0]["id"] == run_id
    assert [task["id"] for task in call(alice_api, "get_tasks")["tasks"]] == [task_id]
    assert call(alice_api, "delete_task", id=task_id) == {"status": "success"}
    assert call(alice_api, "list_tasks")["tasks"] == []
    assert {event.via for event in Event.objects.all()} == {"mcp"}
    actions = ["created", "updated", "updated", "updated", "started_run", "deleted"]
    assert [event.action for event in Event.objects.order_by("pk")] == actions


# --- Access ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_shows_or_changes_what_is_charlies(
    alice_api: ContractClient, cast: Cast, trigger: Standin, tool: str
) -> None:
    task = make_task(cast.charlie, cast.artist, title="Charlie's", prompt="Charlie's prompt")
    tags, output = [f"account:{cast.charlie.pk}"], {"text": "Charlie's output"}
    run = StandinRun("create-content", trigger.state.now - 60, "run_charlie", tags=tags, has_output=True, output=output)
    trigger.state.add_run(run)
    possible = {"id": task.pk, "account_id": cast.charlie.pk, "task_id": task.pk, "runId": "run_charlie", "title": "x"}
    more = {"prompt": "x", "schedule": "1 1 * * *", "artist_account_id": cast.artist.pk, "org_id": task.pk}
    arguments = {name: str(value) for name, value in {**possible, **more}.items() if name in TOOLS[tool].arguments}
    for given in (arguments, {name: value for name, value in arguments.items() if name != "account_id"}):
        found = str(call(alice_api, tool, **given))
        assert "Charlie" not in found
        assert "run_charlie" not in found
    assert Task.objects.filter(title="Charlie's", deleted_at=None, enabled=True).count() == 1
    assert not Event.objects.exists()


@pytest.mark.parametrize("credential", ["none", "invalid"])
def test_without_a_valid_credential_it_is_a_401(db: None, credential: str) -> None:
    client = ContractClient() if credential == "none" else with_key("recoup_sk_" + "x" * 43)
    response = send(client, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="recoup"')


def test_a_key_that_is_revoked_no_longer_works(cast: Cast) -> None:
    api = with_key(make_key(cast.alice))
    rpc(api, "ping")
    cast.alice.api_keys.update(revoked_at=timezone.now())
    assert send(api, {"jsonrpc": "2.0", "id": 1, "method": "ping"}).status_code == 401


def test_no_header_makes_a_request_of_the_api_look_like_mcp(alice_api: ContractClient, cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    body = {"id": str(task.pk), "title": "New"}
    alice_api.patch("/api/tasks", body, format="json", headers={"recoup.via": "mcp", "Recoup-Via": "mcp"})
    assert Event.objects.get().via == "api"


# --- Errors that a model can read ------------------------------------------------------------------------------------


def test_all_missing_arguments_are_named_at_once(alice_api: ContractClient) -> None:
    assert call(alice_api, "create_task", prompt="x") == "Missing arguments: title, schedule, artist_account_id."


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("pause_task", {"id": "x"}, "id must be a UUID"),
        ("pause_task", {"id": "f01b6f46-2367-5b77-b640-f7bffcf5ba36"}, "Task not found"),
        ("get_task", {"id": "f01b6f46-2367-5b77-b640-f7bffcf5ba36"}, "Task not found"),
        ("pause_task", {"id": "x", "title": "y"}, "'title' is not an argument of pause_task. Allowed arguments: id."),
        ("list_tasks", {"limit": 0}, "limit must be a whole number from 1 to 100"),
        ("list_tasks", {"limit": 1.5}, "limit must be"),
        ("list_tasks", {"enabled": "yes"}, "enabled must be true or false"),
        ("list_tasks", {"cursor": {}}, "cursor must be"),
        ("list_tasks", {"cursor": "\ud800"}, "cursor"),
        ("get_run", {"runId": "run_unknown"}, "Task run not found"),
        ("get_run", {"runId": ""}, "runId is empty"),
        ("preview_schedule", {"schedule": "every day"}, "schedule is not a valid cron expression"),
        ("list_runs", {"status": ["COMPLETED", "x"]}, "'x' is none of them"),
    ],
)
def test_an_error_of_a_tool_says_what_was_wrong(
    alice_api: ContractClient, tool: str, arguments: dict[str, Any], named: str
) -> None:
    assert named in call(alice_api, tool, **arguments)


def test_null_is_like_leaving_out(alice_api: ContractClient) -> None:
    assert call(alice_api, "list_tasks", account_id=None, enabled=None)["tasks"] == []


def test_a_mistake_of_ours_in_one_call_of_a_batch_is_an_error_of_that_tool_only(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = make_task(cast.alice, cast.artist)

    def fail(request: Any) -> None:
        raise RuntimeError("a mistake")

    trigger.before = fail
    calls = [("update_task", {"id": str(task.pk), "title": "New"}), ("run_task_now", {"id": str(task.pk)})]
    batch = [
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    updated, failed = [answer["result"] for answer in send(alice_api, batch).json()]
    assert not updated["isError"]
    assert (failed["isError"], failed["content"][0]["text"]) == (True, INTERNAL)


def test_a_call_of_a_tool_counts_as_one_request(alice_api: ContractClient, settings: Settings) -> None:
    settings.REQUESTS_PER_MINUTE = 3
    assert [type(call(alice_api, "list_tasks")) for _ in range(4)] == [dict, dict, dict, str]


# --- The protocol ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "given"), [*((one, one) for one in VERSIONS), ("1999-01-01", VERSIONS[0])])
def test_initialize_agrees_on_a_version(alice_api: ContractClient, wanted: str, given: str) -> None:
    params = {"protocolVersion": wanted, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    result = rpc(alice_api, "initialize", params)["result"]
    assert (result["protocolVersion"], result["capabilities"]) == (given, {"tools": {}})


def test_the_list_of_tools_is_short_and_its_schemas_are_ours(alice_api: ContractClient) -> None:
    response = send(alice_api, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert len(response.content) < 10_000
    tools = {tool["name"]: tool for tool in response.json()["result"]["tools"]}
    assert tools.keys() == TOOLS.keys()
    schema = tools["create_task"]["inputSchema"]
    assert schema["required"] == ["title", "prompt", "schedule", "artist_account_id"]
    assert schema["properties"]["artist_account_id"]["format"] == "uuid"
    assert all(tool["description"] for tool in tools.values())


def test_a_notification_gets_no_answer(alice_api: ContractClient) -> None:
    for message in ({"method": "notifications/initialized"}, {"id": 1, "result": {}}):
        response = send(alice_api, {"jsonrpc": "2.0", **message})
        assert (response.status_code, response.content) == (202, b"")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": ["x"]}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ping", "arguments": []}}, -32602),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, -32600),
        ({"id": 1, "method": "ping"}, -32600),
        ("x", -32600),
        (5, -32600),
        (None, -32600),
    ],
)
def test_an_error_of_the_protocol_has_its_code(alice_api: ContractClient, message: Any, code: int) -> None:
    assert send(alice_api, message).json()["error"]["code"] == code


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 1900, b'{"a": 1, "a": 2}', b"NaN"])
def test_a_body_that_is_no_json_is_a_parse_error(alice_api: ContractClient, body: bytes) -> None:
    response = alice_api.post("/mcp", body, content_type="application/json")
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32700)


def test_a_batch_is_answered_together(alice_api: ContractClient) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert [answer["id"] for answer in send(alice_api, [ping, note, {**ping, "id": "b"}]).json()] == [1, "b"]
    assert send(alice_api, [note]).status_code == 202
    for invalid in ([], [ping] * 21):
        assert send(alice_api, invalid).json()["error"]["code"] == -32600


@pytest.mark.parametrize("method", ["get", "delete", "put"])
def test_other_methods_are_a_405(alice_api: ContractClient, method: str) -> None:
    assert getattr(alice_api, method)("/mcp").status_code == 405


def test_an_unknown_protocol_version_in_the_header_is_a_400(alice_api: ContractClient) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert send(alice_api, message, **{"MCP-Protocol-Version": "x"}).status_code == 400
    assert send(alice_api, message, **{"MCP-Protocol-Version": VERSIONS[1]}).status_code == 200


def test_an_agent_finds_the_service_on_one_page(anonymous_api: ContractClient) -> None:
    response = anonymous_api.get("/llms.txt")
    assert response["content-type"] == "text/plain; charset=utf-8"
    assert all(tool in response.content.decode() for tool in TOOLS if tool not in ("get_tasks", "get_task_run_status"))
