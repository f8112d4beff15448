"""Which task a caller may write: the row's own account decides.

What is out of reach looks like what is not there; naming an account that is out of reach does not.
"""

from uuid import UUID

from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.access import may_act_for
from accounts.api.authentication import caller_of
from tasks.models import Task

TASK_NOT_FOUND = "Task not found"


def task_to_write(view: APIView, request: Request, task_id: UUID, account_id: UUID | None) -> Task:
    """With its account. Raises the 403 of an `account_id` out of reach, and a 404 for everything else."""
    if account_id is not None:
        view.check_object_permissions(request, account_id)
    task = Task.objects.living().select_related("account").filter(pk=task_id).first()
    is_owned = task is not None and account_id in (None, task.account_id)
    if task is None or not is_owned or not may_act_for(caller_of(request), task.account_id):
        raise NotFound(TASK_NOT_FOUND)
    return task
