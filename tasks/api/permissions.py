"""Permission classes for tasks. Its account must be in the caller's reach, and must work with its artist."""

from uuid import UUID

from rest_framework.exceptions import NotFound
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.access import may_act_for, works_with_artist
from accounts.api.authentication import caller_of
from accounts.api.permissions import OUT_OF_REACH
from accounts.models import Account
from core.viewsets import ValidatedViewSet
from tasks.models import Task

TASK_NOT_FOUND = "Task not found"


class TaskInReach(BasePermission):
    """404 for a task that the caller may not act for, or that is not the task of the named `account_id`."""

    def has_object_permission(self, request: Request, view: ValidatedViewSet, obj: Task) -> bool:  # type: ignore[override]
        if view.requested_account_id not in (None, obj.account_id):
            raise NotFound(TASK_NOT_FOUND)
        if not may_act_for(caller_of(request), obj.account_id):
            raise NotFound(TASK_NOT_FOUND)
        return True


class OwnerExists(BasePermission):
    """403 for a new task of an unknown account: an admin may act for every account, even one that does not exist."""

    message = OUT_OF_REACH

    def has_permission(self, request: Request, view: ValidatedViewSet) -> bool:  # type: ignore[override]
        owner_id = view.requested_account_id if view.action == "create" else None
        if owner_id is None or owner_id == caller_of(request).pk:
            return True
        return Account.objects.filter(pk=owner_id).exists()


class ArtistInReach(BasePermission):
    """403 where the account of the task does not work with the artist that the body names."""

    message = (
        "The account does not work with this artist_account_id. "
        "Give an artist that is linked to the account or to its organization."
    )

    def has_permission(self, request: Request, view: ValidatedViewSet) -> bool:  # type: ignore[override]
        if view.action != "create":
            return True
        caller = caller_of(request)
        owner_id: UUID = view.requested_account_id or caller.pk
        return works_with_artist(owner_id, view.body["artist_account_id"], caller=caller)

    def has_object_permission(self, request: Request, view: ValidatedViewSet, obj: Task) -> bool:  # type: ignore[override]
        artist_id = view.body.get("artist_account_id", obj.artist_account_id)
        if artist_id == obj.artist_account_id:
            return True
        return works_with_artist(obj.account_id, artist_id, caller=caller_of(request))
