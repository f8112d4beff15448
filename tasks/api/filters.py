"""What a list of tasks, and a question for runs, may be narrowed by."""

from typing import Any

import django_filters
from django import forms
from django.db.models import Q, QuerySet
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.access import is_admin
from accounts.api.authentication import caller_of
from core.query_parameters import (
    StrictBooleanFilter,
    StrictIntegerField,
    StrictUUIDField,
    StrictUUIDFilter,
    cleaned,
    parameters,
    shown,
)
from tasks.api.bodies import PreviewRequestSerializer
from tasks.api.pagination import Position, position
from tasks.models import Task

DEFAULT_LIMIT = 20
HIGHEST_LIMIT = 100
# Seconds that a request may be held.
LONGEST_WAIT = 25
DEFAULT_COUNT, HIGHEST_COUNT = 10, 100


class TaskFilter(django_filters.FilterSet):
    id = StrictUUIDFilter(help_text="Only the task with this id.")
    account_id = StrictUUIDFilter(help_text="The tasks of this account, which the caller must be able to act for.")
    artist_account_id = StrictUUIDFilter(help_text="Only tasks for this artist.")
    enabled = StrictBooleanFilter(method="filter_enabled", help_text="Only running, or only paused tasks.")

    class Meta:
        model = Task
        fields = ("id", "account_id", "artist_account_id", "enabled")

    def filter_enabled(self, queryset: QuerySet[Task], name: str, value: bool) -> QuerySet[Task]:
        paused = Q(enabled=False)
        return queryset.exclude(paused) if value else queryset.filter(paused)


class TaskFilterBackend(DjangoFilterBackend):
    """The caller's own tasks, narrowed; another account's with `account_id`; an admin's `id` alone finds any."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Task], view: APIView) -> QuerySet[Task]:
        given = parameters(request.query_params, allowed=LIST_PARAMETERS)
        if not given.keys() - PageQuery.base_fields.keys():
            return queryset.filter(account=caller_of(request))
        filters = TaskFilter(given, queryset=queryset, request=request)
        wanted = cleaned(filters.form)
        if wanted["account_id"]:
            view.check_object_permissions(request, wanted["account_id"])
            return filters.qs
        if wanted["id"] and is_admin(caller_of(request)):
            return filters.qs
        return filters.qs.filter(account=caller_of(request))


class CursorField(forms.Field):
    def to_python(self, value: str | None) -> Position | None:
        try:
            return None if value is None else position(value)
        except ValueError:
            problem = f"must be the next_cursor of an earlier answer, not {shown(str(value))}."
            raise forms.ValidationError(problem) from None


class PageQuery(forms.Form):
    limit = StrictIntegerField(minimum=1, maximum=HIGHEST_LIMIT, required=False)
    cursor = CursorField(required=False)


LIST_PARAMETERS = (*TaskFilter.Meta.fields, *PageQuery.base_fields)


def page_query(request: Request) -> dict[str, Any]:
    """`limit` and `cursor`, None where they are not given; everything else is the filter's."""
    given = parameters(request.query_params, allowed=LIST_PARAMETERS)
    return cleaned(PageQuery(given))


class RunQuery(forms.Form):
    runId = forms.Field(required=False)
    limit = StrictIntegerField(minimum=1, maximum=HIGHEST_LIMIT, required=False)
    account_id = StrictUUIDField(required=False)
    wait = StrictIntegerField(minimum=0, maximum=LONGEST_WAIT, required=False)


def run_query(request: Request) -> dict[str, Any]:
    """The question for runs. A limit beside a runId is ignored, even a wrong one; a wait without one is a 400."""
    query = request.query_params.copy()
    if "runId" in query:
        query.pop("limit", None)
    given = parameters(query, allowed=tuple(RunQuery.base_fields))
    wanted = cleaned(RunQuery(given))
    if "wait" in given and not wanted["runId"]:
        raise ValidationError("wait is for one run: give its runId too, or leave wait out.")
    return {**wanted, "limit": wanted["limit"] or DEFAULT_LIMIT}


class PreviewCount(forms.Form):
    count = StrictIntegerField(minimum=1, maximum=HIGHEST_COUNT, required=False)


def preview_query(request: Request) -> dict[str, Any]:
    """`schedule`, `timezone` and `count`; what is wrong with the first two is said as for a new task."""
    given = parameters(request.query_params, allowed=("schedule", "timezone", "count"))
    count = cleaned(PreviewCount({"count": given.pop("count", None)}))["count"]
    return {"timezone": "UTC", **PreviewRequestSerializer(data=given).checked(), "count": count or DEFAULT_COUNT}
