"""Routed explicitly: the published paths carry the id in the body or in the query, so a router does not fit."""

from typing import NoReturn

from django.http import Http404, HttpRequest
from django.urls import re_path

from core.errors import NOT_FOUND
from tasks.api.viewsets import PreviewViewSet, TaskEventViewSet, TaskRunViewSet, TaskViewSet

tasks = TaskViewSet.as_view({"get": "list", "post": "create", "patch": "partial_update", "delete": "destroy"})
preview = PreviewViewSet.as_view({"get": "retrieve"})
runs = TaskRunViewSet.as_view({"get": "list", "post": "create"})


def no_such_path(request: HttpRequest, parameter: str) -> NoReturn:
    """For who puts an id into the path."""
    place = "tasks" if parameter == "id" else "tasks/runs"
    raise Http404(f"{NOT_FOUND} For one of them: /api/{place}?{parameter}=...")


# With or without a slash at the end: a redirect would turn a POST into a GET.
urlpatterns = [
    re_path(r"^tasks/?$", tasks, name="tasks"),
    re_path(r"^tasks/events/?$", TaskEventViewSet.as_view({"get": "list"}), name="task-events"),
    re_path(r"^tasks/preview/?$", preview, name="task-preview"),
    re_path(r"^tasks/runs/?$", runs, name="task-runs"),
    re_path(r"^tasks/runs/[^/]+/?$", no_such_path, {"parameter": "runId"}),
    re_path(r"^tasks/[^/]+/?$", no_such_path, {"parameter": "id"}),
]
