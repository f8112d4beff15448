"""What the views of the API have in common: whose share it is that Trigger.dev is asked out of."""

from typing import Any

from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.models import Account
from tasks.gateway.payers import Payer, payer


class PaidByCaller(APIView):
    """Everything that a request asks of Trigger.dev comes out of the share of its caller."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return super().dispatch(request, *args, **kwargs)
        finally:
            payer.set(None)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        payer.set(Payer(str(request.user.pk)) if isinstance(request.user, Account) else None)
