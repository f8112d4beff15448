"""MCP (Model Context Protocol) at /mcp: streamable HTTP, stateless, JSON answers. https://modelcontextprotocol.io

A tool call is a sub-request to the view of the API, with the caller's own credential: there is no second access code.
The official SDK was looked at: it is an ASGI application with sessions, and this is a view of a WSGI application.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Any
from urllib.parse import urlencode

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import resolve
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.api.authentication import VIA
from accounts.models import Event
from core.errors import INTERNAL, TextErrorSerializer
from core.schema import document
from core.text import quoted

# The newest first: it is offered to a client that asks for an unknown one.
VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
MAX_BATCH = 20
INSTRUCTIONS = (
    "Scheduled tasks of the music platform Recoup: a prompt for one artist, run on a cron schedule. Call list_artists "
    "for the artist_account_id of a new task, and preview_schedule before you write a schedule. Times are in UTC. "
    "Tools act for your own account; with account_id for an account that shares an organization with you."
)
# Headers that belong to the call of MCP and not to the request that it makes.
DROPPED = ("HTTP_IF_NONE_MATCH", "HTTP_IDEMPOTENCY_KEY", "HTTP_CONTENT_ENCODING", "HTTP_TRANSFER_ENCODING")


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tool:
    """A request of the API by `operation`. `arguments`: those of its parameters that a call may give."""

    name: str
    operation: str
    description: str
    arguments: Sequence[str]
    required: Sequence[str] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    not_found: str = ""  # the error for an empty list

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of the request. Raises ToolError for missing and unknown ones."""
        given = {name: value for name, value in given.items() if value is not None or name == "model"}
        unknown = [name for name in given if name not in self.arguments]
        if unknown:
            allowed = ", ".join(self.arguments)
            raise ToolError(f"{quoted(unknown[0])} is not an argument of {self.name}. Allowed arguments: {allowed}.")
        missing = [name for name in self.required if name not in given]
        if missing:
            raise ToolError(f"Missing arguments: {', '.join(missing)}.")
        return {**self.defaults, **given, **self.fixed}


WRITABLE = ("title", "prompt", "schedule", "timezone", "artist_account_id", "model")
NEEDED = ("title", "prompt", "schedule", "artist_account_id")
PERIOD = ("created_after", "created_before")
PAGE = ("limit", "cursor")
TASK_NOT_FOUND = "Task not found. For a task of another account give its account_id too."
TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "list_tasks",
            "list_tasks",
            "Tasks, newest first, each with its last five runs and its next times. 20 per page.",
            ("account_id", "artist_account_id", "enabled", *PAGE),
            defaults={"limit": 20},
        ),
        Tool("get_task", "list_tasks", "One task.", ("id", "account_id"), ("id",), not_found=TASK_NOT_FOUND),
        Tool(
            "create_task",
            "create_task",
            "Schedule a prompt. Preview the schedule first.",
            ("account_id", *WRITABLE),
            NEEDED,
        ),
        Tool(
            "update_task",
            "update_task",
            "Change a task. What you leave out stays as it is.",
            ("id", "account_id", *WRITABLE, "enabled"),
            ("id",),
        ),
        Tool("delete_task", "delete_task", "Delete a task for good. To stop it, pause it.", ("id",), ("id",)),
        Tool(
            "pause_task",
            "update_task",
            "Stop a task from running; resume_task undoes it.",
            ("id",),
            ("id",),
            fixed={"enabled": False},
        ),
        Tool("resume_task", "update_task", "Let a paused task run again.", ("id",), ("id",), fixed={"enabled": True}),
        Tool(
            "run_task_now",
            "start_run",
            "Run a task once, now, and get the run. Then call get_run with its id and wait.",
            ("id",),
            ("id",),
        ),
        Tool(
            "list_runs",
            "list_or_retrieve_runs",
            "Runs, newest first, without their output.",
            ("account_id", "task_id", "status", *PERIOD, *PAGE),
        ),
        Tool(
            "get_run",
            "list_or_retrieve_runs",
            "One run with its output or error. `wait` waits for it to finish.",
            ("runId", "account_id", "wait"),
            ("runId",),
        ),
        Tool(
            "preview_schedule",
            "preview_schedule",
            "When a cron expression would run, and what it says in English. Writes nothing.",
            ("schedule", "timezone", "count"),
            ("schedule",),
        ),
        Tool(
            "list_artists",
            "list_artists",
            "The artists that a task may have.",
            ("account_id", "org_id", *PAGE),
            defaults={"limit": 100},
        ),
        # The names of the service that this one replaces.
        Tool("get_tasks", "list_tasks", "Old name of list_tasks.", ("id", "account_id", "artist_account_id")),
        Tool("get_task_run_status", "list_or_retrieve_runs", "Old name of get_run.", ("runId",), ("runId",)),
    )
}


class ToolError(Exception):
    """An error of a call that the model can read and repair. The text is the message."""


class RpcError(Exception):
    """An error of the protocol."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# --- The view --------------------------------------------------------------------------------------------------------


class McpView(APIView):
    error_serializer = TextErrorSerializer
    throttle_classes = ()  # the requests that it makes are counted
    schema = None  # it is no REST endpoint
    http_method_names = ["post", "options"]

    def post(self, request: Request) -> HttpResponseBase:
        version = request.headers.get("MCP-Protocol-Version", VERSIONS[0])
        if version not in VERSIONS:
            problem = f"MCP-Protocol-Version must be one of {', '.join(VERSIONS)}, not {quoted(version)}."
            return JsonResponse(rpc_error(None, INVALID_REQUEST, problem), status=400)
        try:
            message: Any = request.data
        except ParseError as error:
            return JsonResponse(rpc_error(None, PARSE_ERROR, str(error.detail)), status=400)
        if not isinstance(message, list):
            answer = answer_to(request, message)
            return HttpResponse(status=202) if answer is None else JsonResponse(answer)
        if not 0 < len(message) <= MAX_BATCH:
            problem = f"A batch must have 1 to {MAX_BATCH} messages, not {len(message)}."
            return JsonResponse(rpc_error(None, INVALID_REQUEST, problem), status=400)
        answers = [answer for answer in (answer_to(request, one) for one in message) if answer is not None]
        return JsonResponse(answers, safe=False) if answers else HttpResponse(status=202)


def answer_to(request: Request, message: Any) -> dict[str, Any] | None:
    """None for a notification and for a response, which want no answer."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return rpc_error(None, INVALID_REQUEST, 'A message must be a JSON object with "jsonrpc": "2.0".')
    if "method" not in message or "id" not in message:
        return None
    message_id, params = message["id"], message.get("params", {})
    if not isinstance(message_id, str | int) or isinstance(message_id, bool):
        return rpc_error(None, INVALID_REQUEST, "id must be a text or a whole number.")
    try:
        handler = HANDLERS.get(str(message["method"]))
        if handler is None:
            raise RpcError(METHOD_NOT_FOUND, f"There is no method {quoted(str(message['method']))}.")
        if not isinstance(params, dict):
            raise RpcError(INVALID_PARAMS, "params must be a JSON object.")
        return {"jsonrpc": "2.0", "id": message_id, "result": handler(request, params)}
    except RpcError as error:
        return rpc_error(message_id, error.code, str(error))


def rpc_error(message_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message_id, "error": {"code": code, "message": message}}


# --- The methods -----------------------------------------------------------------------------------------------------


def initialize(request: Request, params: dict[str, Any]) -> dict[str, Any]:
    wanted = params.get("protocolVersion")
    return {
        "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "recoup-tasks", "title": "Recoup Tasks", "version": "1.0.0"},
        "instructions": INSTRUCTIONS,
    }


def ping(request: Request, params: dict[str, Any]) -> dict[str, Any]:
    return {}


def list_tools(request: Request, params: dict[str, Any]) -> dict[str, Any]:
    return {"tools": described_tools()}


def call_tool(request: Request, params: dict[str, Any]) -> dict[str, Any]:
    tool, arguments = TOOLS.get(str(params.get("name"))), params.get("arguments") or {}
    if tool is None:
        raise RpcError(INVALID_PARAMS, f"There is no tool {quoted(str(params.get('name')))}.")
    if not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "arguments must be a JSON object.")
    try:
        text, is_error = ask(request, tool, tool.complete(arguments)), False
    except ToolError as error:
        text, is_error = str(error), True
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


HANDLERS = {"initialize": initialize, "ping": ping, "tools/list": list_tools, "tools/call": call_tool}


def ask(request: Request, tool: Tool, arguments: Mapping[str, Any]) -> str:
    """The body of the API's answer. Raises ToolError with the message of an error."""
    method, path = operations()[tool.operation].request
    sub_request = request_for(request, method, path, arguments)
    try:
        response: Any = resolve(path).func(sub_request)
    except Exception as error:
        logger.exception("The tool %s failed", tool.name)
        raise ToolError(INTERNAL) from error
    if hasattr(response, "render"):
        response.render()
    text: str = response.content.decode()
    if response.status_code >= 400:
        body = json.loads(text)
        raise ToolError(str(body.get("message") or body["error"]))
    if tool.not_found and not json.loads(text)["tasks"]:
        raise ToolError(tool.not_found)
    return text


def request_for(request: Request, method: str, path: str, arguments: Mapping[str, Any]) -> HttpRequest:
    """With the caller's own headers. A GET has the arguments in its query, any other method in its body."""
    is_get = method == "GET"
    body = b"" if is_get else json.dumps(arguments).encode()
    environ = {name: value for name, value in request.META.items() if name not in DROPPED}
    environ |= {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query_string(arguments) if is_get else "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
        VIA: Event.Via.MCP,
    }
    return WSGIRequest(environ)


def query_string(arguments: Mapping[str, Any]) -> str:
    """Half of a surrogate pair, which JSON may contain, becomes a question mark."""
    return urlencode({name: as_query(name, value) for name, value in arguments.items()}, errors="replace")


def as_query(name: str, value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if not isinstance(value, str | int):
        raise ToolError(f"{name} must be a text, a whole number or a boolean.")
    return json.dumps(value) if isinstance(value, bool) else str(value)


# --- The input schemas -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """(method, path), and the schema of each of its parameters."""

    request: tuple[str, str]
    parameters: dict[str, Any]


@cache
def operations() -> dict[str, Operation]:
    """By operation id, from our OpenAPI schema."""
    components, found = document()["components"]["schemas"], {}
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            parameters = {
                one["name"]: described(one) for one in operation.get("parameters", []) if one["in"] == "query"
            }
            for content in operation.get("requestBody", {}).get("content", {}).values():
                body = components[content["schema"]["$ref"].rpartition("/")[2]]
                parameters |= {name: dict(schema) for name, schema in body["properties"].items()}
            found[operation["operationId"]] = Operation((method.upper(), path), parameters)
    return found


def described(parameter: Mapping[str, Any]) -> dict[str, Any]:
    return {**parameter["schema"], "description": parameter.get("description", "")}


@cache
def described_tools() -> list[dict[str, Any]]:
    return [describe(tool) for tool in TOOLS.values()]


def describe(tool: Tool) -> dict[str, Any]:
    operation = operations()[tool.operation]
    properties = {name: operation.parameters[name] for name in tool.arguments}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if tool.required:
        schema["required"] = list(tool.required)
    is_read = operation.request[0] == "GET"
    annotations = {"readOnlyHint": True} if is_read else {"destructiveHint": tool.operation == "delete_task"}
    return {"name": tool.name, "description": tool.description, "inputSchema": schema, "annotations": annotations}
