"""JSON only, whatever `Accept` or `?format=` says, and JSON for whatever Trigger.dev sent."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

LONGEST_BODY = 1024 * 1024


class JSONOnly(BaseContentNegotiation):
    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class StrictJSONParser(BaseParser):
    """JSON as its standard has it: UTF-8, no NaN, no key twice, not nested without end."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        try:
            body = stream.read(LONGEST_BODY + 1)
            if len(body) > LONGEST_BODY:
                raise ParseError(f"The body is longer than {LONGEST_BODY} bytes.")
            return json.loads(body.decode(), parse_constant=no_constant, object_pairs_hook=unique_keys)
        except UnicodeDecodeError:
            raise ParseError("The body is not UTF-8.") from None
        except RecursionError:
            raise ParseError("The body is nested too deeply.") from None
        except ValueError as error:
            raise ParseError(f"The body is not valid JSON: {error}") from None


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:60]!r} stands there twice")
    return found


class TolerantJSONRenderer(JSONRenderer):
    """A run may hold half of a surrogate pair, which JSON can write and UTF-8 cannot: then as an escape."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return super().render(data, accepted_media_type, renderer_context)
        except UnicodeEncodeError:
            return EscapingJSONRenderer().render(data, accepted_media_type, renderer_context)


class EscapingJSONRenderer(JSONRenderer):
    ensure_ascii = True
