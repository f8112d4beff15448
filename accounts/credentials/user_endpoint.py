"""The provider's user endpoint: asked with the caller's token for an e-mail that the token itself does not carry.

Asked once per user and minute, by all users together at most so many times per minute, and a caller waits a
bounded time: an endpoint that hangs costs a 401, not the service.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.cache import cache

from accounts.credentials.fetching import FETCH_ERRORS, MAX_SECONDS, fetch_json
from accounts.credentials.tokens import TokenUser, verified_email
from core import rate_limits
from core.connections import give_connections_back
from core.rate_limits import Limit
from core.text import digest_of

ASKED_AGAIN_AFTER = 60
POLL_INTERVAL = 0.05
# Stored while the endpoint is asked; else the e-mail, or an empty text. No e-mail looks like it.
PENDING = "pending"
TRIES_PER_MINUTE = Limit("user endpoint", 60)

logger = logging.getLogger(__name__)


def verified_email_of(user: TokenUser, token: str) -> str:
    """The e-mail that the provider confirms for the user of this token; empty without one."""
    if not settings.TOKEN_USERINFO_URL:
        return ""
    name = f"user endpoint:{digest_of(user.issuer, user.subject)}"
    if not cache.add(name, PENDING, ASKED_AGAIN_AFTER):
        return wait_for_answer(name)
    if rate_limits.take(TRIES_PER_MINUTE, at=time.time()) is not None:
        cache.delete(name)
        return ""
    email = ask(user, token)
    cache.set(name, email, ASKED_AGAIN_AFTER)
    return email


def wait_for_answer(name: str) -> str:
    """What another request of the same user is told: a web app sends its first requests all at once."""
    until = time.monotonic() + MAX_SECONDS
    found = cache.get(name, "")
    while found == PENDING and time.monotonic() < until:
        give_connections_back()
        time.sleep(POLL_INTERVAL)
        found = cache.get(name, "")
    return "" if found == PENDING else str(found)


def ask(user: TokenUser, token: str) -> str:
    give_connections_back()
    try:
        answer = fetch_json(settings.TOKEN_USERINFO_URL, token=token)
    except FETCH_ERRORS as error:
        logger.warning("The user endpoint of the token provider did not answer: %s", type(error).__name__)
        return ""
    return confirmed_email(user, answer) if isinstance(answer, dict) else ""


def confirmed_email(user: TokenUser, answer: Mapping[str, Any]) -> str:
    """OpenID: `sub`, `email`, `email_verified`. Supabase: `id`, `email`, `email_confirmed_at`."""
    if answer.get("sub", answer.get("id")) != user.subject:
        return ""
    is_confirmed = isinstance(answer.get("email_confirmed_at"), str) and bool(answer["email_confirmed_at"])
    return verified_email({**answer, "email_verified": answer.get("email_verified", is_confirmed)})
