"""What drf-spectacular needs to know about our views: query serializers and error bodies.

A view declares its errors in `error_texts`: (method, status) -> (meaning, an example of the message). The texts below
hold for every view. `undocumented_errors` are statuses that a view never returns.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from drf_spectacular.openapi import AutoSchema
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
        """drf-spectacular leaves out the body of a DELETE; ours has one."""
        if self.method != "DELETE":
            return super()._get_request_body(direction)
        schema = self.resolve_serializer(cast(Any, self.get_request_serializer()), direction).ref
        return {"content": {"application/json": {"schema": schema}}, "required": True}

    def error_response(self, status: int, meaning: str, message: str) -> OpenApiResponse:
        serializer = error_serializer_of(self.view, self.method, status)
        body = serializer.body(status, message, None if self.method == "GET" or status != 400 else ["schedule"])
        example = OpenApiExample(HTTPStatus(status).phrase, body, status_codes=[str(status)])
        return OpenApiResponse(serializer, description=meaning, examples=[example])


def drop_optional_slash(endpoints: list[tuple[str, str, str, Any]], **kwargs: Any) -> list[tuple[str, str, str, Any]]:
    return [(path.rstrip("/"), pattern, method, callback) for path, pattern, method, callback in endpoints]


def drop_enum_ids(result: Any, **kwargs: Any) -> Any:
    """Removes marks of drf-spectacular's enum hook, which moves enums to components; the contract has them inline."""
    if isinstance(result, dict):
        return {key: drop_enum_ids(value) for key, value in result.items() if key != "x-spec-enum-id"}
    return [drop_enum_ids(item) for item in result] if isinstance(result, list) else result
