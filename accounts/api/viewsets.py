"""The endpoints that a client calls first: who am I, my organizations, the artists I may use, and my API keys."""

from typing import Any, ClassVar, cast
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from rest_framework.exceptions import NotFound
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.access import artists_of, is_admin, may_act_for, works_with_any_artist
from accounts.api import schema
from accounts.api.authentication import actor_of, caller_of
from accounts.api.permissions import AccountInReach, IsAccount, OrganizationOfAccount
from accounts.api.serializers import (
    MAX_ARTISTS,
    AccountSerializer,
    ApiKeySerializer,
    ArtistListQuerySerializer,
    ArtistSerializer,
    CreateKeyRequestSerializer,
    DeleteKeyQuerySerializer,
    DeleteKeyRequestSerializer,
    OrganizationListQuerySerializer,
    OrganizationSerializer,
)
from accounts.keys import create_key, revoke_key
from accounts.models import Account, ApiKey, ArtistLink, Membership
from core.errors import TextErrorSerializer
from core.pagination import KeysetPagination
from core.serializers import InvalidField
from core.text import parse_uuid
from core.viewsets import ValidatedViewSet

# Keys of an account that were not revoked.
MAX_KEYS = 100


class AccountAPIViewSet(ValidatedViewSet):
    permission_classes: tuple[type[BasePermission], ...] = (IsAccount, AccountInReach)
    error_serializer = TextErrorSerializer
    error_texts = schema.ACCOUNT_ERROR_TEXTS

    @property
    def account_id(self) -> UUID:
        """Of the account that the request is about."""
        return self.requested_account_id or caller_of(self.request).pk


class AccountViewSet(AccountAPIViewSet):
    permission_classes = (IsAccount,)
    queryset = Account.objects.prefetch_related("emails", "memberships__organization")
    serializer_class = AccountSerializer
    error_texts = schema.ACCOUNT_BY_ID_ERROR_TEXTS

    @schema.get_account_id
    def own_id(self, request: Request) -> Response:
        return Response({"status": "success", "accountId": caller_of(request).pk})

    @schema.get_account
    def retrieve(self, request: Request, id: str) -> Response:
        return Response({"status": "success", "account": self.get_serializer(self.get_object()).data})

    def get_object(self) -> Account:
        """Raises the same 404 for an account out of reach and for one that does not exist."""
        account_id = parse_uuid(self.kwargs["id"])
        is_in_reach = account_id is not None and may_act_for(caller_of(self.request), account_id)
        found = self.get_queryset().filter(pk=account_id).first() if is_in_reach else None
        if found is None:
            raise NotFound(schema.NO_SUCH_ACCOUNT)
        return cast(Account, found)


class AdminViewSet(AccountAPIViewSet):
    permission_classes = (IsAccount,)
    error_texts = schema.OWN_ERROR_TEXTS

    @schema.get_admin
    def retrieve(self, request: Request) -> Response:
        return Response({"status": "success", "isAdmin": is_admin(caller_of(request))})


class OrganizationViewSet(AccountAPIViewSet):
    query_serializers: ClassVar = {"list": OrganizationListQuerySerializer}
    queryset = Membership.objects.select_related("organization").order_by("organization__name", "pk")
    serializer_class = OrganizationSerializer

    def get_queryset(self) -> QuerySet[Membership]:
        return cast(QuerySet[Membership], super().get_queryset()).filter(account=self.account_id)

    @schema.list_organizations
    def list(self, request: Request) -> Response:
        found = self.get_serializer(self.get_queryset(), many=True).data
        return Response({"status": "success", "organizations": found})


class ArtistViewSet(AccountAPIViewSet):
    """Exactly the accounts that the account may put on a task. For an admin these are all: page by page."""

    query_serializers: ClassVar = {"list": ArtistListQuerySerializer}
    permission_classes = (IsAccount, AccountInReach, OrganizationOfAccount)
    queryset = Account.objects.all()
    serializer_class = ArtistSerializer
    pagination_class = KeysetPagination

    def get_queryset(self) -> QuerySet[Account]:
        organizations = Membership.objects.filter(account=self.account_id).values("organization")
        links = ArtistLink.objects.filter(artist_account=OuterRef("pk"))
        pinned = links.filter(Q(account=self.account_id) | Q(organization__in=organizations), pinned=True)
        any_artist = works_with_any_artist(self.account_id, caller=caller_of(self.request))
        if any_artist:
            self.query.setdefault("limit", MAX_ARTISTS)
        artists = artists_of(self.account_id, any_artist=any_artist)
        return self.of_organization(artists).annotate(pinned=Exists(pinned)).order_by("-created_at", "-pk")

    def of_organization(self, artists: QuerySet[Account]) -> QuerySet[Account]:
        """With `org_id` those that are linked to the organization, and its members."""
        if "org_id" not in self.query:
            return artists
        linked = ArtistLink.objects.filter(organization=self.query["org_id"]).values("artist_account")
        members = Membership.objects.filter(organization=self.query["org_id"]).values("account")
        return artists.filter(Q(pk__in=linked) | Q(pk__in=members))

    @schema.list_artists
    def list(self, request: Request) -> Response:
        page = self.paginate_queryset(self.get_queryset())
        body = {"status": "success", "artists": self.get_serializer(page, many=True).data}
        return Response({**body, **cast(KeysetPagination, self.paginator).page_fields()})


class ApiKeyViewSet(AccountAPIViewSet):
    """For oneself only: no `account_id`."""

    query_serializers: ClassVar = {"destroy": DeleteKeyQuerySerializer}
    body_serializers: ClassVar = {"create": CreateKeyRequestSerializer, "destroy": DeleteKeyRequestSerializer}
    permission_classes = (IsAccount,)
    queryset = ApiKey.objects.filter(revoked_at=None).order_by("-created_at", "-pk")
    serializer_class = ApiKeySerializer
    error_texts = schema.KEY_ERROR_TEXTS

    def get_queryset(self) -> QuerySet[ApiKey]:
        return cast(QuerySet[ApiKey], super().get_queryset()).filter(account=caller_of(self.request))

    @schema.list_keys
    def list(self, request: Request) -> Response:
        return Response({"status": "success", "keys": self.get_serializer(self.get_queryset(), many=True).data})

    @schema.create_key
    def create(self, request: Request) -> Response:
        now = timezone.now()
        made = ApiKey(account=caller_of(request), name=self.body["name"], expires_at=self.latest_expiry())
        with transaction.atomic():
            Account.objects.select_for_update().get(pk=made.account_id)
            if self.get_queryset().count() >= MAX_KEYS:
                raise InvalidField(f"You have {MAX_KEYS} keys, and may have {MAX_KEYS}. Delete one first.", [])
            key = create_key(made, actor=actor_of(request), at=now)
        body: dict[str, Any] = {"status": "success", "key": key, **self.get_serializer(made).data}
        return Response(body, headers={"Cache-Control": "no-store"})

    def latest_expiry(self) -> Any:
        """A key that is made with an expiring key ends with it: nobody prolongs a key that was lent."""
        own = self.request.auth.expires_at if isinstance(self.request.auth, ApiKey) else None
        wanted = self.body["expires_at"]
        return min(wanted or own, own) if own else wanted

    @schema.delete_key
    def destroy(self, request: Request) -> Response:
        key = self.get_queryset().filter(pk=self.body["id"]).first()
        if key is None or not revoke_key(key, actor=actor_of(request), at=timezone.now()):
            raise NotFound(schema.NO_SUCH_KEY)
        return Response({"status": "success"})
