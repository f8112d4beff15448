"""Authentication: exactly one of `x-api-key` and `Authorization: Bearer`, with an API key or a token.

Every invalid credential gets the same answer, so a caller does not learn why a guess failed.
"""

import logging
import threading
from datetime import datetime, timedelta
from typing import cast

from django.conf import settings
from django.core.signals import request_finished
from django.db import Error, connection, transaction
from django.db.models import Q
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts import events
from accounts.api import throttling
from accounts.credentials import api_keys
from accounts.credentials.tokens import TokenUser, user_of
from accounts.credentials.user_endpoint import verified_email_of
from accounts.keys import digests_of
from accounts.linking import link_by_email
from accounts.models import Account, ApiKey, Event, Identity
from core.text import is_storable

NOT_EXACTLY_ONE = "Exactly one of x-api-key or Authorization must be provided"
NOT_VALID = (
    "The credential is not valid. Send a complete API key as x-api-key, or a token as Authorization: Bearer, "
    "that has neither expired nor been revoked."
)
NO_SCHEME = 'Authorization has no scheme. Send "Authorization: Bearer", a space, and the key or the token.'
IN_THE_QUERY = "A key in the query is not read, and may by now be in logs. Send it as the header x-api-key."
KEY_PARAMETERS = frozenset(("api_key", "apikey", "api-key", "x-api-key", "x_api_key", "access_token", "token", "key"))
# In `request.META`. No header can set it, since theirs start with HTTP_.
VIA = "recoup.via"
MAX_SUBJECT = 500  # characters; of the column
LAST_USED_INTERVAL = timedelta(minutes=1)

logger = logging.getLogger(__name__)


class CredentialAuthentication(BaseAuthentication):
    """OPTIONS needs no credential: a browser sends none with a preflight request."""

    def authenticate(self, request: Request) -> tuple[Account, ApiKey | Identity] | None:
        if request.method == "OPTIONS":
            return None
        try:
            credential = find_credential(request)
        except AuthenticationFailed:
            throttling.count_failure(request)
            raise
        return credential.account, credential

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="recoup"'


def find_credential(request: Request) -> ApiKey | Identity:
    """Raises AuthenticationFailed unless there is exactly one credential, and it is valid now."""
    api_key = request.headers.get("x-api-key", "").strip()
    authorization = request.headers.get("Authorization", "").strip()
    if bool(api_key) == bool(authorization):
        in_query = not api_key and has_key_in_query(request)
        raise AuthenticationFailed(f"{NOT_EXACTLY_ONE}. {IN_THE_QUERY}" if in_query else NOT_EXACTLY_ONE)
    return find_key(api_key, at=timezone.now()) if api_key else find_bearer(authorization, at=timezone.now())


def has_key_in_query(request: Request) -> bool:
    return any(
        name.lower() in KEY_PARAMETERS or any(api_keys.is_api_key(value) for value in values)
        for name, values in request.query_params.lists()
    )


def caller_of(request: Request) -> Account:
    """The account of an authenticated request."""
    return cast(Account, request.user)


def actor_of(request: Request) -> events.Actor:
    """Who makes the change that an authenticated request asks for. The view of MCP marks its sub-requests."""
    return events.account_actor(caller_of(request), via=request.META.get(VIA, Event.Via.API))


def find_bearer(authorization: str, *, at: datetime) -> ApiKey | Identity:
    """A token that starts like an API key is one; any other is a token of the provider."""
    scheme, space, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed(NOT_VALID if space else NO_SCHEME)
    token = token.strip()
    return find_key(token, at=at) if api_keys.is_api_key(token) else find_identity(token, at=at)


def find_identity(token: str, *, at: datetime) -> Identity:
    user = user_of(token)
    if user is None or not is_storable(user.subject) or len(user.subject) > MAX_SUBJECT:
        raise AuthenticationFailed(NOT_VALID)
    named = Identity.objects.select_related("account").filter(issuer=user.issuer, subject=user.subject)
    found = named.first() or link_new_user(user, token, at=at)
    if found is None:
        raise AuthenticationFailed(NOT_VALID)
    return found


def link_new_user(user: TokenUser, token: str, *, at: datetime) -> Identity | None:
    """By the e-mail of its token, or else by the one that the provider's user endpoint confirms."""
    if not settings.TOKEN_ACCOUNTS:
        return None
    email = user.email or verified_email_of(user, token)
    return link_by_email(user, email, at=at) if email else None


def find_key(key: str, *, at: datetime) -> ApiKey:
    if api_keys.is_demo(key) and not settings.IS_DEVELOPMENT:
        raise AuthenticationFailed(NOT_VALID)
    unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=at)
    digests = digests_of(key)
    valid = ApiKey.objects.select_related("account").filter(unexpired, digest__in=digests, revoked_at__isnull=True)
    found = valid.first()
    if found is None:
        raise AuthenticationFailed(NOT_VALID)
    remember_use(found, digests[0], at=at)
    return found


def remember_use(key: ApiKey, digest: str, *, at: datetime) -> None:
    """Written after the response was sent, so no lock and no failure can delay it. The time, once a minute.

    A key that was found by a former secret gets the digest of the present one: when all keys in use have it, the
    former secret is no longer needed.
    """
    if key.digest != digest or not key.last_used_at or at - key.last_used_at >= LAST_USED_INTERVAL:
        _used.key = (key.pk, at, digest)


def write_use(**kwargs: object) -> None:
    used, _used.key = getattr(_used, "key", None), None
    if used is None:
        return
    key_id, at, digest = used
    try:
        with transaction.atomic():
            ApiKey.objects.filter(pk=key_id).update(last_used_at=at, digest=digest)
    except Error as error:
        logger.warning("The last use of an API key could not be stored: %s", type(error).__name__)
    finally:
        # Django has already closed the connections of the request. This one would stay with an idle thread.
        if not connection.in_atomic_block:
            connection.close()


# A thread of a worker has one request at a time, and sends this signal after the last byte.
_used = threading.local()
request_finished.connect(write_use)
