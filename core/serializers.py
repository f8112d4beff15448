"""Serializers that declare what a request may say: one for each query string and one for each body.

Validation is strict. Agents invent parameters, and an ignored filter would silently return everything. The
schema and the error messages follow from the same declaration.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import QueryDict
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from core.text import (
    cut,
    format_timestamp,
    has_control_characters,
    is_blank,
    is_storable,
    parse_timestamp,
    parse_uuid,
    quoted,
)

IGNORED_PREFIXES = ("_", "utm_")
# That one message names.
MAX_PROBLEMS = 10
EXAMPLE_ID = "3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11"


class InvalidField(ValidationError):
    """A 400 that names the first invalid field of a body. `path` is empty when the body as a whole is invalid."""

    def __init__(self, message: str, path: list[str | int]) -> None:
        super().__init__(message)
        self.path = path


# --- Fields ----------------------------------------------------------------------------------------------------------


class TextField(serializers.CharField):
    """A string that is not blank, stored exactly as sent. `max_characters` is not part of the schema.

    `is_long`: a text such as a prompt, in which control characters do no harm.
    """

    def __init__(
        self, *, max_characters: int, min_length: int | None = 1, is_long: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(trim_whitespace=False, min_length=min_length, **kwargs)
        self.max_characters, self.is_long = max_characters, is_long

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, str):
            self.check(data)
        elif data is not serializers.empty and not (data is None and self.allow_null):
            raise serializers.ValidationError("must be a string.")
        return super(serializers.CharField, self).run_validation(data)

    def check(self, text: str) -> None:
        """Raises ValidationError. Subclasses check more, or something else."""
        problem = problem_of(text, is_long=self.is_long)
        if problem:
            raise serializers.ValidationError(problem)
        if len(text) > self.max_characters:
            raise serializers.ValidationError(f"must have at most {self.max_characters} characters, not {len(text)}.")


def problem_of(text: str, *, is_long: bool = False) -> str:
    """Why a text of a person cannot be taken; empty where it can. For forms too."""
    if is_blank(text):
        return "must not be empty or blank."
    if not is_storable(text):
        return "must not contain a NUL character or half a surrogate pair."
    return "must not contain control characters." if has_control_characters(text) and not is_long else ""


class UUIDField(serializers.UUIDField):
    def to_internal_value(self, data: Any) -> UUID:
        found = parse_uuid(data)
        if found is None:
            value = f", not {quoted(data)}" if isinstance(data, str) else ""
            raise serializers.ValidationError(f"must be a UUID such as {EXAMPLE_ID}{value}.")
        return found


class BooleanField(serializers.BooleanField):
    """A JSON boolean. REST framework's own field also accepts "yes", 1 and "on"."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("must be true, false or null.")
        return data


@extend_schema_field(OpenApiTypes.STR)
class QueryTextField(serializers.Field[str, str, str, Any]):
    """Any text, for a value that only the database or Trigger.dev can judge."""

    def to_internal_value(self, data: str) -> str:
        return data


class QueryBooleanField(serializers.BooleanField):
    """Python clients write `True`, others `1`."""

    VALUES = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}

    def to_internal_value(self, data: Any) -> bool:
        if data not in self.VALUES:
            raise serializers.ValidationError(f"must be true or false, not {quoted(data)}.")
        return self.VALUES[data]


class QueryIntegerField(serializers.IntegerField):
    """One to three ASCII digits. Python's int() also accepts `1_0` and Arabic digits."""

    def __init__(self, *, minimum: int, maximum: int, **kwargs: Any) -> None:
        super().__init__(min_value=minimum, max_value=maximum, **kwargs)
        self.minimum, self.maximum = minimum, maximum

    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch(r"[0-9]{1,3}", data) or not self.minimum <= int(data) <= self.maximum:
            raise serializers.ValidationError(
                f"must be a whole number from {self.minimum} to {self.maximum}, not {quoted(data)}."
            )
        return int(data)


@extend_schema_field(OpenApiTypes.DATETIME)
class QueryTimestampField(serializers.Field[datetime, str, str, Any]):
    """ISO 8601 with a time zone. In a query string `+` means a space, and is understood all the same."""

    def to_internal_value(self, data: str) -> datetime:
        try:
            return parse_timestamp(data.replace(" ", "+"))
        except ValueError:
            problem = f"must be a time with a time zone such as 2026-11-26T09:00:00Z, not {quoted(data)}."
            raise serializers.ValidationError(problem) from None


@extend_schema_field(OpenApiTypes.STR)
class QueryChoicesField(serializers.Field[list[str], str, str, Any]):
    """One or more of these values, with commas between them."""

    def __init__(self, *, choices: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.choices = choices

    def to_internal_value(self, data: str) -> list[str]:
        values = data.split(",")
        for value in values:
            if value not in self.choices:
                allowed = ", ".join(self.choices)
                problem = f"must be a list with commas of {allowed}, and {quoted(value)} is none of them."
                raise serializers.ValidationError(problem)
        return values


class BodyTimestampField(serializers.DateTimeField):
    """ISO 8601 with a time zone."""

    def to_internal_value(self, value: Any) -> datetime:
        try:
            return parse_timestamp(value)
        except (ValueError, TypeError):
            problem = "must be a time with a time zone such as 2026-11-26T09:00:00Z"
            problem += f", not {quoted(value)}." if isinstance(value, str) else "."
            raise serializers.ValidationError(problem) from None


class TimestampField(serializers.DateTimeField):
    def to_representation(self, value: Any) -> str:
        return format_timestamp(value)


# --- Requests --------------------------------------------------------------------------------------------------------


class BodySerializer(serializers.Serializer[Any]):
    """Declares the JSON object of a request."""

    def validated(self) -> dict[str, Any]:
        """The fields that were sent, and the defaults of others. Raises InvalidField with all that is wrong."""
        body = self.initial_data
        if not isinstance(body, dict):
            raise InvalidField("The body must be a JSON object.", [])
        allowed = ", ".join(self.fields)
        unknown = {
            cut(name): f"{quoted(name)} is not a writable field. Allowed fields: {allowed}."
            for name in body
            if name not in self.fields
        }
        invalid = {} if self.is_valid() else {name: f"{name} {problem}" for name, problem in problems(self)}
        if unknown or invalid:
            found = unknown | invalid
            raise InvalidField(joined(list(found.values())), [next(iter(found))])
        return dict(self.validated_data)


def joined(sentences: Sequence[str]) -> str:
    """Of many unknown fields only the first ones."""
    shown = sentences[:MAX_PROBLEMS]
    more = len(sentences) - len(shown)
    return " ".join([*shown, f"And {more} more."] if more else shown)


class QuerySerializer(serializers.Serializer[Any]):
    """Declares a query string: each parameter is known, given once and not empty."""

    def validated(self) -> dict[str, Any]:
        """The parameters that were given, and the defaults of others. Raises a 400 that names the first invalid one."""
        self.initial_data = self.parameters(self.initial_data)
        # REST framework copies every field for validation, which costs more than the query of a short list.
        if not self.initial_data and not any(field.required for field in self._declared_fields.values()):
            return {name: field.default for name, field in self._declared_fields.items() if has_default(field)}
        if not self.is_valid():
            raise self.invalid(*first_problem(self))
        return dict(self.validated_data)

    def parameters(self, query: QueryDict) -> dict[str, str]:
        """The parameters by name. Raises a 400 for one that is unknown, repeated or empty."""
        given = {name: values for name, values in query.lists() if not name.startswith(IGNORED_PREFIXES)}
        for name, values in given.items():
            if name not in self._declared_fields:
                raise ValidationError(f"Unknown parameter {quoted(name)}. {self.allowed()}")
            if len(values) > 1:
                raise ValidationError(f"{name} was given {len(values)} times. Give it once.")
            if not values[0]:
                raise ValidationError(f"{name} is empty. Give it a value or leave it out.")
        return {name: values[0] for name, values in given.items()}

    def allowed(self) -> str:
        if self.fields:
            return f"Allowed parameters: {', '.join(self.fields)}."
        return "Send everything in the body." if self.context.get("has_body") else "This request has no parameters."

    def invalid(self, name: str, problem: str) -> ValidationError:
        return ValidationError(f"{name} {problem}")


def has_default(field: serializers.Field[Any, Any, Any, Any]) -> bool:
    return field.default is not serializers.empty


def first_problem(serializer: serializers.Serializer[Any]) -> tuple[str, str]:
    return problems(serializer)[0]


def problems(serializer: serializers.Serializer[Any]) -> list[tuple[str, str]]:
    """(field, what is wrong with it), to be joined to sentences."""
    sentences = {"required": "is required.", "null": "must not be null."}
    return [
        (name, sentences.get(getattr(found[0], "code", ""), str(found[0]))) for name, found in serializer.errors.items()
    ]
