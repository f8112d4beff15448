"""How many requests a caller may send: per credential, and per address for what failed to authenticate.

A valid credential passes whatever else comes from its address, so that nobody can lock others out.
"""

from __future__ import annotations

import ipaddress
import math
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import prometheus_client
from django.conf import settings
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from core import rate_limits
from core.rate_limits import Limit

if TYPE_CHECKING:  # rest_framework.views imports this module, by its name in the settings
    from rest_framework.views import APIView

# The part of an IPv6 address that one subscriber has: it can send from all of the rest.
IPV6_PREFIX = 64
# Some proxies add the client's port.
WITH_PORT = re.compile(r"^(?:\[([^\]]*)\](?::\d+)?|([^:]*):\d+)$")
REFUSED = prometheus_client.Counter("recoup_requests_limited", "Requests that were answered with a 429.", ["limit"])


class TooMany(Throttled):
    """A 429 that says what there was too much of, and when to try again."""

    def __init__(self, what: str, *, seconds: float) -> None:
        wait = max(1, math.ceil(seconds))
        super().__init__(wait)
        self.detail = f"{what} Try again in {wait} seconds."  # type: ignore[assignment]


class CredentialThrottle(BaseThrottle):
    def allow_request(self, request: Request, view: APIView) -> bool:
        credential = request.auth
        if credential is None:
            return True
        most = settings.REQUESTS_A_MINUTE
        spent = rate_limits.take(Limit(f"requests:{type(credential).__name__}:{credential.pk}", most), at=time.time())
        if spent is not None:
            REFUSED.labels("credential").inc()
            message = f"More than {most} requests came with this credential within a minute."
            raise TooMany(message, seconds=spent.seconds)
        return True


def note_failure(request: Request) -> None:
    """A request that did not authenticate. Raises TooMany where its address has had too many of them."""
    most = settings.FAILURES_A_MINUTE
    spent = rate_limits.take(Limit(f"failures:{network_of(request)}", most), at=time.time())
    if spent is not None:
        REFUSED.labels("address").inc()
        message = f"More than {most} requests without a valid credential came from your address within a minute."
        raise TooMany(message, seconds=spent.seconds)


def network_of(request: Request) -> str:
    """The client's address as TRUSTED_PROXIES tell it; of IPv6 the network that it can choose addresses in."""
    address = WITH_PORT.sub(r"\1\2", str(BaseThrottle().get_ident(request)))
    with suppress(ValueError):
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address):
            mapped = found.ipv4_mapped
            return str(mapped or ipaddress.ip_network((found, IPV6_PREFIX), strict=False))
    return address[:64]
