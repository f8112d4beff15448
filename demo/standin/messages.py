"""The request as the stand-in reads it, and replies in the formats of Trigger.dev."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

JSON = "application/json; charset=utf-8"
PROBLEM = "application/problem+json; charset=utf-8"
MDN = "https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/"


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query parameters. The last of repeated parameters wins."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def to_json(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def ok(body: Any) -> Reply:
    return Reply(200, to_json(body))


def error(status: int, message: str) -> Reply:
    return Reply(status, to_json({"error": message}))


def query_error(**issue: Any) -> Reply:
    return query_errors([issue])


def query_errors(issues: list[dict[str, Any]]) -> Reply:
    return Reply(400, to_json({"error": "Query Error", "details": issues}))


def problem(status: int, title: str, detail: str, **more: Any) -> Reply:
    body = {"title": title, "status": status, "type": f"{MDN}{status}", "detail": detail, **more, "error": detail}
    return Reply(status, to_json(body), PROBLEM)


def rate_limit_exceeded(limit: int, reset: int, *, seconds: float) -> Reply:
    """The 429 of the rate limit. `reset` is in epoch milliseconds. Trigger.dev never sends Retry-After."""
    detail = f"Rate limit exceeded 0/{limit} requests remaining. Retry in {seconds:.3f} seconds."
    return problem(
        429, "Rate Limit Exceeded", detail, reset=reset, limit=limit, remaining=-1, secondsUntilReset=round(seconds, 3)
    )
