"""GET /api/tasks and GET /api/tasks/runs.

The order of every answer: 401, 405, 400, 403, 404. The attributes `error_shape` and `error_shapes` name the published
schema of a view's error bodies; `recoup.errors` makes them.
"""

from typing import Any, ClassVar

from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.exceptions import NotFound
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import caller_of
from tasks import openapi, runs, upstream
from tasks.enrichment import enrich
from tasks.filters import TaskFilter, TaskFilterBackend, run_query
from tasks.models import Task
from tasks.run_owners import RUN_NOT_FOUND
from tasks.runs import Snapshot
from tasks.serializers import TaskSerializer, in_milliseconds


def without_body() -> HttpResponseBase:
    """What a HEAD gets: no length, since nobody was asked how long the answer to a GET would be."""
    return StreamingHttpResponse((), content_type="application/json")


class TasksView(GenericAPIView[Task]):
    queryset = Task.objects.living().with_people()
    filter_backends = (TaskFilterBackend,)
    filterset_class = TaskFilter

    @openapi.list_tasks
    def get(self, request: Request) -> HttpResponseBase:
        tasks = self.filter_queryset(self.get_queryset())
        if request.method == "HEAD":
            return without_body()
        enriched = enrich(tasks, now=timezone.now(), deadline=upstream.deadline_from_now())
        return Response({"status": "success", "tasks": TaskSerializer(enriched, many=True).data})


class TaskRunsView(APIView):
    error_shape = "TaskRunsErrorResponse"
    error_shapes: ClassVar = {("GET", 404): "TaskRunsErrorResponse"}

    @openapi.list_or_retrieve_runs
    def get(self, request: Request) -> HttpResponseBase:
        query = run_query(request)
        if query["account_id"]:
            self.check_object_permissions(request, query["account_id"])
        if request.method == "HEAD":
            return without_body()
        snapshot = self.one(request, query) if query["runId"] else self.listed(request, query)
        as_of = snapshot.as_of and in_milliseconds(snapshot.as_of)
        return Response(
            {"status": "success", "runs": snapshot.runs, "runs_status": snapshot.status, "runs_as_of": as_of}
        )

    def one(self, request: Request, query: dict[str, Any]) -> Snapshot:
        try:
            return runs.retrieve(
                caller_of(request),
                query["runId"],
                account_id=query["account_id"],
                now=timezone.now(),
                deadline=upstream.deadline_from_now(),
            )
        except runs.RunNotFound:
            raise NotFound(RUN_NOT_FOUND) from None

    def listed(self, request: Request, query: dict[str, Any]) -> Snapshot:
        account_id = query["account_id"] or caller_of(request).pk
        now, deadline = timezone.now(), upstream.deadline_from_now()
        return runs.of_account(account_id, limit=query["limit"], now=now, deadline=deadline)
