"""A viewset that checks each request in the order 401, 405, 400, 403, 404.

REST framework checks permissions before anything has read the query and the body. Our permissions depend on both, so
they are validated once, in `initial()`, before permissions; everything after that works with validated values.
"""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.viewsets import GenericViewSet

from core.serializers import BodySerializer, InvalidField, QuerySerializer


class ValidatedViewSet(GenericViewSet[Any]):
    """Each action has a serializer for its query and one for its body; `query` and `body` hold validated values."""

    query_serializers: ClassVar[dict[str, type[QuerySerializer]]] = {}
    body_serializers: ClassVar[dict[str, type[BodySerializer]]] = {}
    query: dict[str, Any]
    body: dict[str, Any]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = super().dispatch(request, *args, **kwargs)
        # The view keeps its answer, which can have megabytes. It is in a cycle with its own methods, so it lives until
        # the next full garbage collection.
        del self.response
        return response

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Replaces REST framework's: its order is authentication, permissions, throttles."""
        self.format_kwarg = self.get_format_suffix(**kwargs)
        renderer, media_type = self.perform_content_negotiation(request)
        request.accepted_renderer, request.accepted_media_type = renderer, media_type
        self.perform_authentication(request)
        self.check_throttles(request)
        if self.action is None:
            self.http_method_not_allowed(request)
        if request.method != "OPTIONS":
            self.validate_request(request)
        self.check_permissions(request)

    def validate_request(self, request: Request) -> None:
        """Sets `query` and `body`. Raises a 400. Subclasses validate more here, for example headers."""
        query_serializer = self.query_serializers.get(str(self.action), QuerySerializer)
        body_serializer = self.body_serializers.get(str(self.action))
        context = {"has_body": body_serializer is not None}
        self.query = query_serializer(data=request.query_params, context=context).validated()
        self.body = body_serializer(data=self.get_request_body(request)).validated() if body_serializer else {}

    def get_request_body(self, request: Request) -> Any:
        """For a DELETE the body and the query together, since some proxies drop the body; both must agree."""
        if request.method != "DELETE":
            return request.data
        body = request.data if request.META.get("CONTENT_LENGTH") not in (None, "", "0") else {}
        if not isinstance(body, dict):
            return body
        for name, value in self.query.items():
            if name in body and str(body[name]).lower() != str(value):
                raise InvalidField(f"{name} differs between the body and the query.", [name])
        return {**{name: str(value) for name, value in self.query.items()}, **body}

    @property
    def requested_account_id(self) -> UUID | None:
        """The `account_id` of the body or of the query."""
        account_id: UUID | None = self.body.get("account_id") or self.query.get("account_id")
        return account_id
