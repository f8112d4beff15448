"""A request as the stand-in reads it, and the replies in Trigger.dev's many forms."""

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
        """Of a repeated parameter the last one wins."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name), None)


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def encoded(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def ok(body: Any) -> Reply:
    return Reply(200, encoded(body))


def error(status: int, message: str) -> Reply:
    return Reply(status, encoded({"error": message}))


def query_error(**issue: Any) -> Reply:
    return query_errors([issue])


def query_errors(issues: list[dict[str, Any]]) -> Reply:
    return Reply(400, encoded({"error": "Query Error", "details": issues}))


def problem(status: int, title: str, detail: str, **more: Any) -> Reply:
    body = {"title": title, "status": status, "type": f"{MDN}{status}", "detail": detail, **more, "error": detail}
    return Reply(status, encoded(body), PROBLEM)


def too_many(limit: int, reset: int, *, seconds: float) -> Reply:
    """`reset` in epoch milliseconds; there is never a Retry-After."""
    detail = f"Rate limit exceeded 0/{limit} requests remaining. Retry in {seconds:.3f} seconds."
    return problem(
        429, "Rate Limit Exceeded", detail, reset=reset, limit=limit, remaining=-1, secondsUntilReset=round(seconds, 3)
    )
