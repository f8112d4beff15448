"""What drf-spectacular is told about the whole project: error bodies by shape, and a schema free of its own marks."""

from http import HTTPStatus
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse, extend_schema_field
from rest_framework import serializers

from recoup.errors import shape_of

COMMON_ERRORS = (400, 401, 403, 500)


class ErrorSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"], required=False)
    error = extend_schema_field({"type": "integer", "format": "int32"})(serializers.IntegerField)(
        help_text="The HTTP status."
    )
    message = serializers.CharField(help_text="What was wrong, with which value, and what to do.")


class TaskRunsErrorResponseSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["error"])
    error = serializers.CharField(help_text="What was wrong, with which value, and what to do.")


SHAPE_SERIALIZERS: dict[str, type[serializers.Serializer[Any]]] = {
    "Error": ErrorSerializer,
    "TaskRunsErrorResponse": TaskRunsErrorResponseSerializer,
}


class ContractSchema(AutoSchema):
    """Documents the error bodies of each operation from the same attributes that make them."""

    def get_filter_backends(self) -> list[Any]:
        return list(getattr(self.view, "filter_backends", []))

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        named = [status for method, status in getattr(self.view, "error_shapes", {}) if method == self.method]
        errors = {
            str(status): self._get_response_for_code(self.error_response(status), str(status), None, direction)
            for status in sorted({*COMMON_ERRORS, *named})
        }
        return {**super()._get_response_bodies(direction), **errors}

    def error_response(self, status: int) -> OpenApiResponse:
        serializer = SHAPE_SERIALIZERS[shape_of(self.view, self.method, status)]
        return OpenApiResponse(serializer, description=HTTPStatus(status).phrase)


def drop_optional_slash(endpoints: list[tuple[str, str, str, Any]], **kwargs: Any) -> list[tuple[str, str, str, Any]]:
    return [(path.rstrip("/"), pattern, method, callback) for path, pattern, method, callback in endpoints]


def drop_enum_ids(result: Any, **kwargs: Any) -> Any:
    """drf-spectacular's marks for its enum hook, which would make components of what the contract keeps in place."""
    if isinstance(result, dict):
        return {key: drop_enum_ids(value) for key, value in result.items() if key != "x-spec-enum-id"}
    return [drop_enum_ids(item) for item in result] if isinstance(result, list) else result
