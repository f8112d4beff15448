"""A viewset that checks each request in the order 401, 405, 400, 403, 404.

REST framework checks permissions before anything has read the query and the body. Our permissions depend on both, so
they are validated once, in `initial()`, before permissions; everything after that works with validated values.
"""

from typing import Any, ClassVar
from uuid import UUID

from rest_framework.request import Request
from rest_framework.viewsets import GenericViewSet

from core.serializers import BodySerializer, QuerySerializer


class ValidatedViewSet(GenericViewSet[Any]):
    """Each action has a serializer for its query and one for its body; `query` and `body` hold validated values."""

    query_serializers: ClassVar[dict[str, type[QuerySerializer]]] = {}
    body_serializers: ClassVar[dict[str, type[BodySerializer]]] = {}
    query: dict[str, Any]
    body: dict[str, Any]

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
        self.query = query_serializer(data=request.query_params).validated()
        body_serializer = self.body_serializers.get(str(self.action))
        self.body = body_serializer(data=self.get_request_body(request)).validated() if body_serializer else {}

    def get_request_body(self, request: Request) -> Any:
        return request.data

    @property
    def requested_account_id(self) -> UUID | None:
        """The `account_id` of the body or of the query."""
        account_id: UUID | None = self.body.get("account_id") or self.query.get("account_id")
        return account_id
