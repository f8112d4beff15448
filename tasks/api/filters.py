"""The filters of the task list. `TaskListQuerySerializer` has validated the values before they arrive here."""

from typing import Any

import django_filters
from django.db.models import Q, QuerySet
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.request import Request

from tasks.models import Task


class TaskFilter(django_filters.FilterSet):
    id = django_filters.UUIDFilter()
    account_id = django_filters.UUIDFilter()
    artist_account_id = django_filters.UUIDFilter()
    enabled = django_filters.BooleanFilter(method="filter_enabled")

    class Meta:
        model = Task
        fields = ("id", "account_id", "artist_account_id", "enabled")

    def filter_enabled(self, queryset: QuerySet[Task], name: str, value: bool) -> QuerySet[Task]:
        """Null counts as true."""
        paused = Q(enabled=False)
        return queryset.exclude(paused) if value else queryset.filter(paused)


class TaskFilterBackend(DjangoFilterBackend):
    def filter_queryset(self, request: Request, queryset: QuerySet[Task], view: Any) -> QuerySet[Task]:
        """Skips the filterset for a plain list: building its form costs more than the query."""
        if view.query.keys().isdisjoint(TaskFilter.Meta.fields):
            return queryset
        found: QuerySet[Task] = super().filter_queryset(request, queryset, view)
        return found

    def get_filterset_kwargs(self, request: Request, queryset: QuerySet[Task], view: Any) -> dict[str, Any]:
        kwargs: dict[str, Any] = super().get_filterset_kwargs(request, queryset, view)
        return {**kwargs, "data": view.query}
