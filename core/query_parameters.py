"""What a query string may say: each parameter known, given once, not empty, and of its exact type.

A filter that is silently ignored would return everything, and agents invent filters.
"""

import re
from collections.abc import Collection
from typing import Any
from uuid import UUID

import django_filters
from django import forms
from django.http import QueryDict
from rest_framework.exceptions import ValidationError

from core.text import as_uuid

IGNORED_PREFIXES = ("_", "utm_")
SHOWN_CHARACTERS = 60


def parameters(query: QueryDict, *, allowed: Collection[str]) -> dict[str, str]:
    """The given parameters by name; raises a 400 that names the first one that is unknown, repeated or empty."""
    given = {name: values for name, values in query.lists() if not name.startswith(IGNORED_PREFIXES)}
    for name, values in given.items():
        if name not in allowed:
            known = f"Allowed are: {', '.join(allowed)}." if allowed else "Everything belongs in the body here."
            raise ValidationError(f"Unknown parameter {shown(name)}. {known}")
        if len(values) > 1:
            raise ValidationError(f"{name} was given {len(values)} times. Give it once.")
        if not values[0]:
            raise ValidationError(f"{name} is empty. Give it a value or leave it out.")
    return {name: values[0] for name, values in given.items()}


def cleaned(form: forms.Form) -> dict[str, Any]:
    """The values of a form; raises a 400 that names the first wrong one."""
    for name, errors in form.errors.items():
        raise ValidationError(f"{name} {errors[0]}")
    return form.cleaned_data


def shown(value: str) -> str:
    """A caller's value as an error message repeats it: quoted, and not at any length."""
    return repr(value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "…")


class StrictUUIDField(forms.Field):
    def to_python(self, value: str | None) -> UUID | None:
        found = as_uuid(value)
        if value is not None and found is None:
            raise forms.ValidationError(
                f"must be a UUID such as 3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11, not {shown(value)}."
            )
        return found


class StrictBooleanField(forms.Field):
    def to_python(self, value: str | None) -> bool | None:
        if value not in (None, "true", "false"):
            raise forms.ValidationError(f"must be true or false, not {shown(value)}.")
        return None if value is None else value == "true"


class StrictIntegerField(forms.Field):
    """One to three ASCII digits within bounds; Python's int() would take `1_0` and Arabic digits too."""

    def __init__(self, *, minimum: int, maximum: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minimum, self.maximum = minimum, maximum

    def to_python(self, value: str | None) -> int | None:
        if value is None:
            return None
        if not re.fullmatch(r"[0-9]{1,3}", value) or not self.minimum <= int(value) <= self.maximum:
            raise forms.ValidationError(
                f"must be a whole number from {self.minimum} to {self.maximum}, not {shown(value)}."
            )
        return int(value)


class StrictUUIDFilter(django_filters.UUIDFilter):
    field_class = StrictUUIDField


class StrictBooleanFilter(django_filters.BooleanFilter):
    field_class = StrictBooleanField
