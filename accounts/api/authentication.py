"""Headers -> (account, credential): exactly one of `x-api-key` and `Authorization: Bearer`, an API key or a token.

Whatever is wrong with a credential gets one and the same answer, so that nobody learns why a guess failed.
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
USE_IS_NOTED_EVERY = timedelta(minutes=1)

logger = logging.getLogger(__name__)


class CredentialAuthentication(BaseAuthentication):
    """OPTIONS passes without a credential: a browser sends none with a preflight."""

    def authenticate(self, request: Request) -> tuple[Account, ApiKey | Identity] | None:
        if request.method == "OPTIONS":
            return None
        try:
            credential = find_credential(request)
        except AuthenticationFailed:
            throttling.note_failure(request)
            raise
        return credential.account, credential

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="recoup"'


def find_credential(request: Request) -> ApiKey | Identity:
    """Raises AuthenticationFailed unless there is exactly one, and that one is valid now."""
    api_key = request.headers.get("x-api-key", "").strip()
    authorization = request.headers.get("Authorization", "").strip()
    if bool(api_key) == bool(authorization):
        raise AuthenticationFailed(NOT_EXACTLY_ONE)
    return find_key(api_key, at=timezone.now()) if api_key else find_bearer(authorization, at=timezone.now())


def caller_of(request: Request) -> Account:
    """The account behind a request that has been let in."""
    return cast(Account, request.user)


def find_bearer(authorization: str, *, at: datetime) -> ApiKey | Identity:
    """What begins like an API key is one; anything else is a token of the provider."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed(NOT_VALID)
    token = token.strip()
    return find_key(token, at=at) if api_keys.is_one_of_ours(token) else find_identity(token)


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
    note_use(found, at=at)
    return found


def note_use(key: ApiKey, *, at: datetime) -> None:
    """At most once a minute. Written when the answer has gone out, so that no lock and no failure can hold that up."""
    if not key.last_used_at or at - key.last_used_at >= USE_IS_NOTED_EVERY:
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
        logger.warning("The use of an API key could not be noted: %s", type(error).__name__)
    finally:
        # Django has closed those of the request before; this one would stay with an idle thread, out of the pool.
        if not connection.in_atomic_block:
            connection.close()


# A worker's thread has one request at a time, and sends this signal after its last byte.
_used = threading.local()
request_finished.connect(write_use)
