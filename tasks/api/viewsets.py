"""The endpoints: /api/tasks, /api/tasks/preview and /api/tasks/runs.

Every viewset validates the request in `initial()`, before permissions; see `core.viewsets`.
"""

import logging
import time
from functools import partial
from typing import Any, ClassVar, cast

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import is_admin, may_act_for
from accounts.api.authentication import caller_of, find_credential
from accounts.api.permissions import OUT_OF_REACH, AccountInReach, IsAccount
from accounts.models import Account
from core.errors import FailureSerializer, ValidationFailureSerializer
from core.pagination import KeysetPagination
from core.serializers import InvalidField
from core.text import format_timestamp
from core.viewsets import ValidatedViewSet
from tasks import cron, idempotency, writes
from tasks.api import errors, schema
from tasks.api.filters import TaskFilter, TaskFilterBackend
from tasks.api.permissions import TASK_NOT_FOUND, ArtistInReach, OwnerExists, TaskInReach
from tasks.api.rendering import (
    conditional_response,
    json_response,
    runs_body,
    tasks_body,
    without_presigned_urls,
)
from tasks.api.serializers import (
    CreateTaskRequestSerializer,
    DeleteTaskQuerySerializer,
    DeleteTaskRequestSerializer,
    PreviewQuerySerializer,
    StartRunRequestSerializer,
    TaskListQuerySerializer,
    TaskRunListQuerySerializer,
    TaskRunsErrorResponseSerializer,
    UpdateTaskRequestSerializer,
    idempotency_key_of,
)
from tasks.cron import zones
from tasks.gateway import upstream
from tasks.gateway.budget import Payer, payer
from tasks.models import Task, TaskQuerySet
from tasks.runs import queries, run_now
from tasks.runs.known import Known, RunsStatus, last_known
from tasks.runs.reading import enrich
from tasks.runs.snapshots import UNFINISHED_FOR
from tasks.runs.waiting import Waiter, has_left, wait_for_change
from tasks.schedules.settling import ATTEMPT_WITHIN
from tasks.trigger.errors import TriggerError

logger = logging.getLogger(__name__)


class TaskAPIViewSet(ValidatedViewSet):
    """What the viewsets of this app share: idempotency keys, one task by id, and errors of the gateway."""

    # Actions that accept an Idempotency-Key; their validated key is in `idempotency_key`.
    idempotent_actions: ClassVar[tuple[str, ...]] = ()
    idempotency_key = ""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return super().dispatch(request, *args, **kwargs)
        finally:
            payer.set(None)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Upstream calls of a request count against its caller's quota."""
        super().initial(request, *args, **kwargs)
        payer.set(Payer(str(request.user.pk)) if isinstance(request.user, Account) else None)

    def validate_request(self, request: Request) -> None:
        super().validate_request(request)
        if self.action in self.idempotent_actions:
            self.idempotency_key = idempotency_key_of(request)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, TriggerError):
            exc = errors.as_api_exception(exc)
        return super().handle_exception(exc)

    def get_object(self) -> Task:
        """The living task that the body names, with its account. Raises the same 404 for every other id."""
        task = Task.objects.living().select_related("account").filter(pk=self.body["id"]).first()
        if task is None:
            raise NotFound(TASK_NOT_FOUND)
        self.check_object_permissions(self.request, task)
        return task

    @property
    def etags(self) -> str | None:
        """The client's If-None-Match."""
        return self.request.headers.get("If-None-Match")


class TaskViewSet(TaskAPIViewSet):
    query_serializers: ClassVar = {"list": TaskListQuerySerializer, "destroy": DeleteTaskQuerySerializer}
    body_serializers: ClassVar = {
        "create": CreateTaskRequestSerializer,
        "partial_update": UpdateTaskRequestSerializer,
        "destroy": DeleteTaskRequestSerializer,
    }
    idempotent_actions: ClassVar = ("create",)
    queryset = Task.objects.living().to_show()
    permission_classes = (IsAccount, AccountInReach, OwnerExists, TaskInReach, ArtistInReach)
    filter_backends = (TaskFilterBackend,)
    filterset_class = TaskFilter
    pagination_class = KeysetPagination
    error_serializers: ClassVar = {
        (method, status): serializer
        for method in ("PATCH", "DELETE")
        for status, serializer in (
            (400, ValidationFailureSerializer),
            (404, FailureSerializer),
            (500, FailureSerializer),
        )
    }
    error_texts = schema.TASK_ERROR_TEXTS

    def get_queryset(self) -> TaskQuerySet:
        """The caller's tasks; another account's with `account_id`; any task by an admin's `id` alone."""
        tasks, caller = cast(TaskQuerySet, super().get_queryset()), caller_of(self.request)
        if "account_id" in self.query or ("id" in self.query and is_admin(caller)):
            return tasks
        return tasks.filter(account=caller)

    def get_request_body(self, request: Request) -> Any:
        """For a DELETE the body and the query together; both must agree."""
        if self.action != "destroy":
            return request.data
        body = request.data if request.META.get("CONTENT_LENGTH") not in (None, "", "0") else {}
        if not isinstance(body, dict):
            return body
        for name, value in self.query.items():
            if name in body and str(body[name]).lower() != str(value):
                raise InvalidField(f"{name} differs between the body and the query.", [name])
        return {**{name: str(value) for name, value in self.query.items()}, **body}

    @schema.list_tasks
    def list(self, request: Request) -> HttpResponseBase:
        tasks = self.filter_queryset(self.get_queryset())
        if request.method == "HEAD":
            return head_response()
        page = cast(list[Task], self.paginate_queryset(tasks))
        now, deadline = timezone.now(), upstream.deadline_from_now()
        body = tasks_body(
            enrich(page, now=now, deadline=deadline), **cast(KeysetPagination, self.paginator).page_fields()
        )
        return conditional_response(request, body)

    @schema.create_task
    def create(self, request: Request) -> HttpResponse:
        deadline, caller = upstream.deadline_from_now(), caller_of(request)
        fields = {"account_id": caller.pk, **self.body}
        now, within = timezone.now(), settling_time(deadline)
        is_replayed = False
        with errors.write_errors():
            if self.idempotency_key:
                key = idempotency.Key(caller.pk, self.idempotency_key, idempotency.digest_of_body(self.body))
                task, is_replayed = idempotency.create_task_once(fields, key, at=now, within=within)
            else:
                task = writes.create_task(fields, at=now, within=within)
        response = self.written(task, deadline=deadline)
        if is_replayed:
            response["Idempotent-Replayed"] = "true"
        return response

    @schema.update_task
    def partial_update(self, request: Request) -> HttpResponse:
        task, deadline = self.get_object(), upstream.deadline_from_now()
        changes = {name: value for name, value in self.body.items() if name not in ("id", "account_id")}
        with errors.write_errors():
            writes.update_task(task, changes, at=timezone.now(), within=settling_time(deadline))
        return self.written(task, deadline=deadline)

    @schema.delete_task
    def destroy(self, request: Request) -> Response:
        task = self.get_object()
        writes.delete_task(task, at=timezone.now(), within=settling_time(upstream.deadline_from_now()))
        return Response({"status": "success"})

    def written(self, task: Task, *, deadline: float) -> HttpResponse:
        """The task as it is after a write."""
        rows = self.queryset.filter(pk=task.pk)
        return json_response(tasks_body(enrich(rows, now=timezone.now(), deadline=deadline)))


class PreviewViewSet(TaskAPIViewSet):
    """When a schedule would run, without a task. Nothing is written, and Trigger.dev is not called."""

    query_serializers: ClassVar = {"retrieve": PreviewQuerySerializer}
    permission_classes = (IsAccount,)
    error_texts = schema.PREVIEW_ERROR_TEXTS
    undocumented_errors = (403,)

    @schema.preview_schedule
    def retrieve(self, request: Request) -> Response:
        expression, timezone_name = self.query["schedule"], self.query.get("timezone", "UTC")
        times = cron.next_times(expression, timezone_name, after=timezone.now(), count=self.query["count"])
        zone = zones.zone(timezone_name)
        return Response(
            {
                "status": "success",
                "schedule": expression,
                "timezone": timezone_name,
                "description": cron.describe(expression),
                "upcoming": [{"utc": format_timestamp(at), "local": at.astimezone(zone).isoformat()} for at in times],
            }
        )


class TaskRunViewSet(TaskAPIViewSet):
    query_serializers: ClassVar = {"list": TaskRunListQuerySerializer}
    body_serializers: ClassVar = {"create": StartRunRequestSerializer}
    idempotent_actions: ClassVar = ("create",)
    permission_classes = (IsAccount, AccountInReach, TaskInReach)
    error_serializer = TaskRunsErrorResponseSerializer
    error_texts = schema.RUN_ERROR_TEXTS

    @schema.list_or_retrieve_runs
    def list(self, request: Request) -> HttpResponseBase:
        if request.method == "HEAD":
            return head_response()
        if "runId" in self.query:
            return self.single()
        account_id = self.requested_account_id or caller_of(request).pk
        now, deadline, only_fresh = timezone.now(), upstream.deadline_from_now(), self.etags is not None
        limit = self.query["limit"]
        known = queries.of_account(account_id, limit=limit, now=now, deadline=deadline, only_fresh=only_fresh)
        return conditional_response(request, runs_body(known))

    @schema.start_run
    def create(self, request: Request) -> HttpResponse:
        task, caller = self.get_object(), caller_of(request)
        now, deadline = timezone.now(), upstream.deadline_from_now()
        with errors.start_errors(task):
            key = self.idempotency_key
            run_id, is_replayed = run_now.start(task, requested_by=caller, key=key, at=now, deadline=deadline)
        response = json_response(runs_body(self.started(task, run_id, deadline=deadline)))
        if is_replayed:
            response["Idempotent-Replayed"] = "true"
        return response

    def single(self) -> HttpResponse:
        """One run. With `wait` an unfinished one is held until it changes, unless it has changed for the client."""
        begun, wait = time.monotonic(), self.query.get("wait", 0)
        known = self.retrieved(caller_of(self.request), only_fresh=bool(wait) or self.etags is not None)
        response = self.run_response(known)
        has_changed = self.etags is not None and response.status_code == 200
        if not wait or known.is_final or has_changed or known.snapshot is None:
            return response
        socket = self.request.META.get("gunicorn.socket")
        waiter = Waiter(self.query["runId"], known.snapshot, has_left=partial(has_left, socket))
        latest = wait_for_change(waiter, seconds=max(0.0, begun + wait - time.monotonic()))
        if latest is None:
            return response
        caller = self.authenticate_again()
        try:
            return self.run_response(self.retrieved(caller, only_fresh=self.etags is not None))
        except TriggerError:
            # Neither Trigger.dev nor the cache has what the waiter has seen.
            seen = queries.as_seen(caller, Known(last_known(latest), RunsStatus.STALE), self.requested_account_id)
            return self.run_response(seen)

    def authenticate_again(self) -> Account:
        """The caller after a wait: its credential or its access may have been revoked meanwhile."""
        caller = find_credential(self.request).account
        account_id = self.requested_account_id
        if account_id and not may_act_for(caller, account_id):
            raise PermissionDenied(OUT_OF_REACH)
        return caller

    def retrieved(self, caller: Account, *, only_fresh: bool) -> Known:
        return queries.retrieve(
            caller,
            self.query["runId"],
            account_id=self.requested_account_id,
            now=timezone.now(),
            deadline=upstream.deadline_from_now(),
            only_fresh=only_fresh,
        )

    def run_response(self, known: Known) -> HttpResponse:
        response = conditional_response(self.request, runs_body(known), etag_fields=without_presigned_urls(known))
        if not known.is_final:
            response["Retry-After"] = str(round(UNFINISHED_FOR.total_seconds()))
        return response

    def started(self, task: Task, run_id: str, *, deadline: float) -> Known:
        now, caller = timezone.now(), caller_of(self.request)
        try:
            return queries.look_at_started(caller, run_id, account_id=task.account_id, now=now, deadline=deadline)
        except (TriggerError, queries.RunNotFound) as error:
            logger.warning("The run %s was started, but could not be retrieved: %s", run_id, error)
            return run_now.just_started(task, run_id, at=now)

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, queries.RunNotFound):
            exc = NotFound(errors.NO_SUCH_RUN)
        return super().handle_exception(exc)


def head_response() -> HttpResponseBase:
    """The answer to a HEAD. It has no Content-Length: nobody has computed how long the body of a GET would be."""
    return StreamingHttpResponse((), content_type="application/json")


def settling_time(deadline: float) -> float:
    """How many seconds an attempt to settle may take, so that the answer is in time."""
    return min(ATTEMPT_WITHIN, max(0.0, deadline - time.monotonic()))
