"""/api/tasks/runs: the runs of an account, one run, and a new one."""

import logging
from typing import Any, ClassVar

from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.exceptions import APIException, NotFound
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.authentication import caller_of
from accounts.filters import parameters
from tasks import openapi, runs, started_runs, upstream
from tasks.bodies import StartRunRequestSerializer, idempotency_key
from tasks.environment import NotOurEnvironment
from tasks.filters import run_query
from tasks.known import Known
from tasks.models import Task
from tasks.permissions import task_to_write
from tasks.rendering import runs_answer
from tasks.run_owners import RUN_NOT_FOUND
from tasks.trigger.errors import TriggerError
from tasks.views import without_body

logger = logging.getLogger(__name__)


class RunNotConfirmed(APIException):
    """Trigger.dev did not say that it has started the run."""

    status_code = 500
    wait = 5
    default_detail = started_runs.NOT_CONFIRMED


class NotSetUp(APIException):
    """Another Trigger.dev environment than the database belongs to."""

    status_code = 500
    default_detail = (
        "No run was started: this service was moved to another Trigger.dev environment, which its operator must accept."
    )


class TaskRunsView(APIView):
    error_shape = "TaskRunsErrorResponse"
    error_shapes: ClassVar = {(method, 404): "TaskRunsErrorResponse" for method in ("GET", "POST")}

    @openapi.list_or_retrieve_runs
    def get(self, request: Request) -> HttpResponseBase:
        query = run_query(request)
        if query["account_id"]:
            self.check_object_permissions(request, query["account_id"])
        if request.method == "HEAD":
            return without_body()
        return runs_answer(self.one(request, query) if query["runId"] else self.listed(request, query))

    @openapi.start_run
    def post(self, request: Request) -> HttpResponseBase:
        parameters(request.query_params, allowed=())
        fields, key = StartRunRequestSerializer(data=request.data).checked(), idempotency_key(request)
        task = task_to_write(self, request, fields["id"], fields.get("account_id"))
        now, deadline = timezone.now(), upstream.deadline_from_now()
        try:
            caller = caller_of(request)
            run_id, is_repeated = started_runs.start(task, asked_by=caller, key=key, at=now, deadline=deadline)
        except NotOurEnvironment as error:
            logger.error("A run of task %s was not started: %s", task.pk, error)
            raise NotSetUp from error
        except TriggerError as error:
            logger.warning("A run of task %s was not confirmed: %s", task.pk, error)
            raise RunNotConfirmed from error
        response = runs_answer(self.started(request, task, run_id, deadline=deadline))
        if is_repeated:
            response["Idempotent-Replayed"] = "true"
        return response

    def one(self, request: Request, query: dict[str, Any]) -> Known:
        now, deadline = timezone.now(), upstream.deadline_from_now()
        caller, account_id = caller_of(request), query["account_id"]
        try:
            return runs.retrieve(caller, query["runId"], account_id=account_id, now=now, deadline=deadline)
        except runs.RunNotFound:
            raise NotFound(RUN_NOT_FOUND) from None

    def listed(self, request: Request, query: dict[str, Any]) -> Known:
        account_id = query["account_id"] or caller_of(request).pk
        now, deadline = timezone.now(), upstream.deadline_from_now()
        return runs.of_account(account_id, limit=query["limit"], now=now, deadline=deadline)

    def started(self, request: Request, task: Task, run_id: str, *, deadline: float) -> Known:
        now = timezone.now()
        try:
            caller, account_id = caller_of(request), task.account_id
            return runs.look_at_started(caller, run_id, account_id=account_id, now=now, deadline=deadline)
        except (TriggerError, runs.RunNotFound) as error:
            logger.warning("The run %s was started, and could not be looked at: %s", run_id, error)
            return started_runs.just_started(task, run_id, at=now)
