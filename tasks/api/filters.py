"""The filters of the two lists. The serializers of their queries have validated the values already."""

from typing import Any

import django_filters
from django.db.models import Q, QuerySet
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.request import Request

from tasks.api.queries import STATUSES
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


class RunFilter(django_filters.FilterSet):
    """`task_id` decides which index is read, so it is part of the viewset's queryset."""

    status = django_filters.MultipleChoiceFilter(choices=[(status, status) for status in STATUSES])
    created_after = django_filters.IsoDateTimeFilter("listed_at", "gte")
    created_before = django_filters.IsoDateTimeFilter("listed_at", "lt")


class ValidatedFilterBackend(DjangoFilterBackend):
    """Filters by the validated query of the view."""

    def filter_queryset(self, request: Request, queryset: QuerySet[Any], view: Any) -> QuerySet[Any]:
        """Skips the filterset for a plain list: building its form costs more than the query."""
        if view.query.keys().isdisjoint(view.filterset_class.base_filters):
            return queryset
        found: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return found

    def get_filterset_kwargs(self, request: Request, queryset: QuerySet[Any], view: Any) -> dict[str, Any]:
        kwargs: dict[str, Any] = super().get_filterset_kwargs(request, queryset, view)
        return {**kwargs, "data": view.query}
