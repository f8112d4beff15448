"""What drf-spectacular needs to know about our views: query serializers and error bodies.

A view declares its errors in `error_texts`: (method, status) -> (meaning, an example of the message). The texts below
hold for every view. `undocumented_errors` are statuses that a view never returns.
"""

import threading
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, cast

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import build_media_type_object
from drf_spectacular.utils import OpenApiExample, OpenApiResponse
from rest_framework import serializers

from core.errors import INTERNAL, error_serializer_of

ErrorTexts = Mapping[tuple[str, int], tuple[str, str]]
METHODS = ("GET", "POST", "PATCH", "DELETE")


def for_methods(status: int, meaning: str, message: str, *, methods: tuple[str, ...] = METHODS) -> ErrorTexts:
    return {(method, status): (meaning, message) for method in methods}


COMMON_ERROR_TEXTS: ErrorTexts = {
    **for_methods(
        400,
        "A parameter is unknown, repeated, empty or of the wrong type. The message names it.",
        "limit must be a whole number from 1 to 100, not '0'.",
    ),
    **for_methods(500, "An error on our side. It has been logged.", INTERNAL),
}


class ContractSchema(AutoSchema):
    """Documents parameters and errors of an operation from the declarations that implement them."""

    def get_override_parameters(self) -> list[Any]:
        query_serializers: dict[str, type[serializers.Serializer[Any]]] = getattr(self.view, "query_serializers", {})
        declared = query_serializers.get(getattr(self.view, "action", ""))
        return [declared] if declared else []

    def get_filter_backends(self) -> list[Any]:
        """None: the query serializer declares what a filterset reads."""
        return []

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        """There is no public hook for responses that every operation has."""
        texts = {**COMMON_ERROR_TEXTS, **getattr(self.view, "error_texts", {})}
        left_out = getattr(self.view, "undocumented_errors", ())
        errors = {
            str(status): self._get_response_for_code(self.error_response(status, *text), str(status), None, direction)
            for (method, status), text in sorted(texts.items())
            if method == self.method and status not in left_out
        }
        return {**super()._get_response_bodies(direction), **errors}

    def _get_request_body(self, direction: Any = "request") -> Any:
        """drf-spectacular leaves out the body of a DELETE; ours may have one."""
        if self.method != "DELETE":
            return super()._get_request_body(direction)
        serializer = cast(Any, self.get_request_serializer())
        schema = self.resolve_serializer(serializer, direction).ref
        examples = self._get_examples(serializer, direction, "application/json")
        return {"content": {"application/json": build_media_type_object(schema, examples)}, "required": False}

    def error_response(self, status: int, meaning: str, message: str) -> OpenApiResponse:
        serializer = error_serializer_of(self.view, self.method, status)
        body = serializer.body(status, message, None if self.method == "GET" or status != 400 else ["schedule"])
        example = OpenApiExample(HTTPStatus(status).phrase, body, status_codes=[str(status)])
        return OpenApiResponse(serializer, description=meaning, examples=[example])


@cache
def _document() -> dict[str, Any]:
    found: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)
    return found


def document() -> dict[str, Any]:
    """The OpenAPI document, made once per process. drf-spectacular is not thread-safe."""
    with _making:
        return _document()


_making = threading.Lock()


def drop_optional_slash(endpoints: list[tuple[str, str, str, Any]], **kwargs: Any) -> list[tuple[str, str, str, Any]]:
    return [(path.rstrip("/"), pattern, method, callback) for path, pattern, method, callback in endpoints]


def drop_enum_ids(result: Any, **kwargs: Any) -> Any:
    """Removes marks of drf-spectacular's enum hook, which moves enums to components; the contract has them inline."""
    if isinstance(result, dict):
        return {key: drop_enum_ids(value) for key, value in result.items() if key != "x-spec-enum-id"}
    return [drop_enum_ids(item) for item in result] if isinstance(result, list) else result
