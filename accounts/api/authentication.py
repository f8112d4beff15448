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

from accounts.api import throttling
from accounts.credentials import api_keys
from accounts.credentials.tokens import subject_of
from accounts.models import Account, ApiKey, Identity

NOT_EXACTLY_ONE = "Exactly one of x-api-key or Authorization must be provided"
NOT_VALID = (
    "The credential is not valid. Send a complete API key as x-api-key, or a token as Authorization: Bearer, "
    "that has neither expired nor been revoked."
)
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
        raise AuthenticationFailed(NOT_EXACTLY_ONE)
    return find_key(api_key, at=timezone.now()) if api_key else find_bearer(authorization, at=timezone.now())


def caller_of(request: Request) -> Account:
    """The account of an authenticated request."""
    return cast(Account, request.user)


def find_bearer(authorization: str, *, at: datetime) -> ApiKey | Identity:
    """A token that starts like an API key is one; any other is a token of the provider."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed(NOT_VALID)
    token = token.strip()
    return find_key(token, at=at) if api_keys.is_api_key(token) else find_identity(token)


def find_identity(token: str) -> Identity:
    named = subject_of(token)
    if named is None or "\x00" in named[1]:
        raise AuthenticationFailed(NOT_VALID)
    issuer, subject = named
    found = Identity.objects.select_related("account").filter(issuer=issuer, subject=subject).first()
    if found is None:
        raise AuthenticationFailed(NOT_VALID)
    return found


def find_key(key: str, *, at: datetime) -> ApiKey:
    if api_keys.is_demo(key) and not settings.TRIGGER_IS_LOCAL:
        raise AuthenticationFailed(NOT_VALID)
    unexpired = Q(expires_at__isnull=True) | Q(expires_at__gt=at)
    digest = api_keys.digest(key, secret=settings.API_KEY_SECRET)
    found = ApiKey.objects.select_related("account").filter(unexpired, digest=digest, revoked_at__isnull=True).first()
    if found is None:
        raise AuthenticationFailed(NOT_VALID)
    remember_use(found, at=at)
    return found


def remember_use(key: ApiKey, *, at: datetime) -> None:
    """At most once per minute. Written after the response was sent, so no lock and no failure can delay it."""
    if not key.last_used_at or at - key.last_used_at >= LAST_USED_INTERVAL:
        _used.key = (key.pk, at)


def write_use(**kwargs: object) -> None:
    used, _used.key = getattr(_used, "key", None), None
    if used is None:
        return
    key_id, at = used
    try:
        with transaction.atomic():
            ApiKey.objects.filter(pk=key_id).update(last_used_at=at)
    except Error as error:
        logger.warning("The last use of an API key could not be stored: %s", type(error).__name__)
    finally:
        # Django has already closed the connections of the request. This one would stay with an idle thread.
        if not connection.in_atomic_block:
            connection.close()


# A thread of a worker has one request at a time, and sends this signal after the last byte.
_used = threading.local()
request_finished.connect(write_use)
