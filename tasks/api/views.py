"""/api/tasks and /api/tasks/preview.

The order of every answer: 401, 405, 400, 403, 404. The attributes `error_shape` and `error_shapes` name the published
schema of a view's error bodies; `recoup.errors` makes them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast
from uuid import UUID

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.exceptions import APIException, NotFound, PermissionDenied
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.access import works_with_artist
from accounts.api.authentication import caller_of
from accounts.api.permissions import MayActForAccount
from accounts.models import Account
from core.query_parameters import parameters
from core.timestamps import as_text
from tasks import cron, idempotency, writes
from tasks.api import pagination, schema
from tasks.api.base import PaidByCaller
from tasks.api.bodies import (
    CreateTaskRequestSerializer,
    DeleteTaskRequestSerializer,
    UpdateTaskRequestSerializer,
    WrongBody,
    idempotency_key,
)
from tasks.api.filters import TaskFilter, TaskFilterBackend, page_query, preview_query
from tasks.api.permissions import TASK_NOT_FOUND, task_to_write
from tasks.api.rendering import answer, tagged_answer, tasks_body
from tasks.cron import zones
from tasks.gateway import upstream
from tasks.models import Task, TaskQuerySet
from tasks.runs.enrichment import enrich
from tasks.schedules.settling import ATTEMPT_WITHIN

FOREIGN_ARTIST = (
    "The account does not work with this artist_account_id. Give an artist that is linked to it or to its organization."
)


def without_body() -> HttpResponseBase:
    """What a HEAD gets: no length, since nobody was asked how long the answer to a GET would be."""
    return StreamingHttpResponse((), content_type="application/json")


def etags_of(request: Request) -> str | None:
    return request.headers.get("If-None-Match")


def within(deadline: float) -> float:
    """How long an attempt to settle may take, so that the answer can still be made in time."""
    return min(ATTEMPT_WITHIN, max(0.0, deadline - time.monotonic()))


class Conflict(APIException):
    status_code = 409

    def __init__(self, conflict: Exception) -> None:
        super().__init__(str(conflict.__doc__))
        if isinstance(conflict, idempotency.InTheMaking):
            self.wait = 2


@contextmanager
def refusals() -> Iterator[None]:
    try:
        yield
    except writes.ScheduleRefused as refusal:
        raise WrongBody(f"Trigger.dev does not take it: {refusal}", [refused_field(str(refusal))]) from None
    except writes.TaskGone:
        raise NotFound(TASK_NOT_FOUND) from None
    except (idempotency.AnotherBody, idempotency.TaskIsGone, idempotency.InTheMaking) as conflict:
        raise Conflict(conflict) from None


def refused_field(reason: str) -> str:
    return "timezone" if "timezone" in reason else "schedule"


def refuse_foreign_artist(caller: Account, account: Account, artist_id: UUID) -> None:
    if not works_with_artist(account, artist_id, caller=caller):
        raise PermissionDenied(FOREIGN_ARTIST)


def delete_request(request: Request) -> dict[str, Any]:
    """The id in the body or, since some proxies drop the body of a DELETE, in the query; both must agree."""
    query = parameters(request.query_params, allowed=("id", "account_id"))
    body = request.data if request.META.get("CONTENT_LENGTH") not in (None, "", "0") else {}
    if not isinstance(body, dict):
        raise WrongBody("The body must be a JSON object.", [])
    for name, value in query.items():
        if name in body and str(body[name]).lower() != value.lower():
            raise WrongBody(f"{name} is one in the body and another in the query.", [name])
    return DeleteTaskRequestSerializer(data={**query, **body}).checked()


class TasksView(PaidByCaller, GenericAPIView[Task]):
    error_shapes: ClassVar = {
        (method, status): shape
        for method in ("PATCH", "DELETE")
        for status, shape in ((400, "ValidationFailure"), (404, "Failure"), (500, "Failure"))
    } | {("POST", 409): "Error"}
    queryset = Task.objects.living().to_show()
    filter_backends = (TaskFilterBackend,)
    filterset_class = TaskFilter

    @schema.list_tasks
    def get(self, request: Request) -> HttpResponseBase:
        wanted = page_query(request)
        tasks = cast(TaskQuerySet, self.filter_queryset(self.get_queryset()))
        if request.method == "HEAD":
            return without_body()
        page, etags = pagination.read(tasks, limit=wanted["limit"], after=wanted["cursor"]), etags_of(request)
        now, deadline = timezone.now(), upstream.deadline_from_now()
        # Whoever asks whether something is new wants that to be true.
        shown = enrich(page.tasks, now=now, deadline=deadline, only_fresh=etags is not None)
        paged = {"next_cursor": page.next_cursor} if wanted["limit"] else {}
        return tagged_answer(tasks_body(shown, **paged), etags=etags)

    @schema.create_task
    def post(self, request: Request) -> HttpResponse:
        parameters(request.query_params, allowed=())
        body, key = CreateTaskRequestSerializer(data=request.data).checked(), idempotency_key(request)
        account_id = body.get("account_id", caller_of(request).pk)
        self.check_object_permissions(request, account_id)
        refuse_foreign_artist(caller_of(request), self.account(account_id), body["artist_account_id"])
        deadline = upstream.deadline_from_now()
        made = {**body, "account_id": account_id}
        with refusals():
            if not key:
                task = writes.create(made, at=timezone.now(), within=within(deadline))
                return self.shown(task, deadline=deadline)
            key_of_caller = idempotency.Key(caller_of(request).pk, key, idempotency.digest_of(body))
            task, is_repeated = idempotency.create_once(made, key_of_caller, at=timezone.now(), within=within(deadline))
        return self.shown(task, deadline=deadline, headers={"Idempotent-Replayed": "true"} if is_repeated else None)

    @schema.update_task
    def patch(self, request: Request) -> HttpResponse:
        parameters(request.query_params, allowed=())
        changes = UpdateTaskRequestSerializer(data=request.data).checked()
        task = task_to_write(self, request, changes.pop("id"), changes.pop("account_id", None))
        artist_id = changes.get("artist_account_id", task.artist_account_id)
        if artist_id != task.artist_account_id:
            refuse_foreign_artist(caller_of(request), task.account, artist_id)
        deadline = upstream.deadline_from_now()
        with refusals():
            writes.change(task, changes, at=timezone.now(), within=within(deadline))
        return self.shown(task, deadline=deadline)

    @schema.delete_task
    def delete(self, request: Request) -> Response:
        fields = delete_request(request)
        task = task_to_write(self, request, fields["id"], fields.get("account_id"))
        writes.delete(task, at=timezone.now(), within=within(upstream.deadline_from_now()))
        return Response({"status": "success"})

    def account(self, account_id: UUID) -> Account:
        """For an admin every account is in reach, but a task needs one that exists."""
        found = Account.objects.filter(pk=account_id).first()
        if found is None:
            raise PermissionDenied(MayActForAccount.message)
        return found

    def shown(self, task: Task, *, deadline: float, headers: dict[str, str] | None = None) -> HttpResponse:
        written = self.get_queryset().filter(pk=task.pk)
        shown = answer(tasks_body(enrich(written, now=timezone.now(), deadline=deadline)))
        for name, value in (headers or {}).items():
            shown[name] = value
        return shown


class PreviewView(APIView):
    # It names no account.
    never: ClassVar = (403,)

    @schema.preview_schedule
    def get(self, request: Request) -> Response:
        query = preview_query(request)
        expression, zone = query["schedule"], query["timezone"]
        times = cron.next_times(expression, zone, after=timezone.now(), count=query["count"])
        return Response(
            {
                "status": "success",
                "schedule": expression,
                "timezone": zone,
                "description": cron.describe(expression),
                "upcoming": [
                    {"utc": as_text(moment), "local": moment.astimezone(zones.zone(zone)).isoformat()}
                    for moment in times
                ],
            }
        )
