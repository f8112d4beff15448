"""JSON in and out: JSON only, whatever `Accept` or `?format=` says, and JSON for any value that Trigger.dev sent."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

MAX_BODY = 1024 * 1024
MAX_QUOTED_KEY, MAX_DIGITS = 60, 1000
GZIP = b"\x1f\x8b"
FORMS = frozenset(("application/x-www-form-urlencoded", "multipart/form-data"))


class JSONOnly(BaseContentNegotiation):
    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class StrictJSONParser(BaseParser):
    """JSON by the standard: UTF-8, no NaN, no duplicate keys, a limited size and depth."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        try:
            body = stream.read(MAX_BODY + 1)
            if len(body) > MAX_BODY:
                raise ParseError(f"The body is longer than {MAX_BODY} bytes.")
            # Some editors and Windows programs write a byte order mark first.
            text = body.decode("utf-8-sig")
            return json.loads(
                text, parse_constant=refuse_constant, parse_int=parse_integer, object_pairs_hook=refuse_duplicates
            )
        except RecursionError:
            raise ParseError("The body is nested too deeply.") from None
        except ValueError as error:
            request = (parser_context or {}).get("request")
            raise ParseError(problem_of(body, media_type or "", encoding_of(request), error)) from None


def encoding_of(request: Any) -> str:
    return str(request.headers.get("Content-Encoding", "")) if request is not None else ""


def problem_of(body: bytes, media_type: str, encoding: str, error: ValueError) -> str:
    """What a body is that is no JSON, as far as its first bytes and its headers tell."""
    kind = media_type.partition(";")[0].strip().lower()
    if body.startswith(GZIP) or encoding.lower() not in ("", "identity"):
        return f"The body is compressed ({encoding[:MAX_QUOTED_KEY] or 'gzip'}). Send it as it is."
    if kind in FORMS:
        return f"The body is a form ({kind}). Send JSON, with Content-Type: application/json."
    if isinstance(error, UnicodeDecodeError):
        return "The body is not UTF-8."
    return f"The body is not valid JSON: {error}"


def parse_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits, and at most {MAX_DIGITS} are read")
    return int(text)


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        duplicate, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate key {duplicate[:MAX_QUOTED_KEY]!r}")
    return found


class TolerantJSONRenderer(JSONRenderer):
    """Writes half of a surrogate pair as an escape: JSON allows it in a run, UTF-8 does not."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return super().render(data, accepted_media_type, renderer_context)
        except UnicodeEncodeError:
            return EscapingJSONRenderer().render(data, accepted_media_type, renderer_context)


class EscapingJSONRenderer(JSONRenderer):
    ensure_ascii = True
