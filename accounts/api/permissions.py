"""Permission classes: they ask `accounts.access`, and decide nothing themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.access import may_act_for
from accounts.api.authentication import caller_of
from accounts.models import Account

if TYPE_CHECKING:  # rest_framework.views imports this module, by its name in the settings
    from rest_framework.views import APIView


class MayActForAccount(BasePermission):
    """A known caller, and for `check_object_permissions(request, account_id)` one who may act for that account.

    The body of the 403 is the same for a foreign and for an unknown account: nobody learns which accounts exist.
    """

    message = (
        "You may not act for this account_id. Leave it out to act for your own account, "
        "or give that of an account you share an organization with."
    )

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.method == "OPTIONS" or isinstance(request.user, Account)

    def has_object_permission(self, request: Request, view: APIView, account_id: UUID) -> bool:
        return may_act_for(caller_of(request), account_id)
