"""Permission classes: who may call at all, and for which account. `accounts.access` has the rule itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.access import is_admin, may_act_for
from accounts.api.authentication import caller_of
from accounts.models import Account, Membership

if TYPE_CHECKING:  # rest_framework.views imports this module, by its name in the settings
    from rest_framework.views import APIView

    from core.viewsets import ValidatedViewSet

OUT_OF_REACH = (
    "You may not act for this account_id. Leave it out to act for your own account, "
    "or give the account_id of an account you share an organization with."
)


class IsAccount(BasePermission):
    """The caller is an account. A browser sends no credential with an OPTIONS request."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.method == "OPTIONS" or isinstance(request.user, Account)


class AccountInReach(BasePermission):
    """403 where the request names an `account_id` that the caller may not act for.

    The body is the same for another tenant's account and for an unknown one, so it does not tell which accounts exist.
    """

    message = OUT_OF_REACH

    def has_permission(self, request: Request, view: ValidatedViewSet) -> bool:  # type: ignore[override]
        account_id = view.requested_account_id if request.method != "OPTIONS" else None
        return account_id is None or may_act_for(caller_of(request), account_id)


class OrganizationOfAccount(BasePermission):
    """403 where the request names an `org_id` that its account is not in. The same for one that does not exist."""

    message = (
        "The account is not in this org_id. Leave it out, or give the organization_id of one of the account's "
        "organizations."
    )

    def has_permission(self, request: Request, view: ValidatedViewSet) -> bool:  # type: ignore[override]
        org_id = view.query.get("org_id") if request.method != "OPTIONS" else None
        if org_id is None:
            return True
        caller = caller_of(request)
        account_id = view.requested_account_id or caller.pk
        return Membership.objects.filter(account=account_id, organization=org_id).exists() or is_admin(caller)
