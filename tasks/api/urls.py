"""Routed explicitly: the published paths carry the id in the body or in the query, so a router does not fit."""

from django.urls import re_path

from tasks.api.viewsets import PreviewViewSet, TaskRunViewSet, TaskViewSet

tasks = TaskViewSet.as_view({"get": "list", "post": "create", "patch": "partial_update", "delete": "destroy"})
preview = PreviewViewSet.as_view({"get": "retrieve"})
runs = TaskRunViewSet.as_view({"get": "list", "post": "create"})

# With or without a slash at the end: a redirect would turn a POST into a GET.
urlpatterns = [
    re_path(r"^tasks/?$", tasks, name="tasks"),
    re_path(r"^tasks/preview/?$", preview, name="task-preview"),
    re_path(r"^tasks/runs/?$", runs, name="task-runs"),
]
