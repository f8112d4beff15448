"""Rate limits of callers: per credential, and per address for requests that failed to authenticate.

A valid credential is never limited by its address, so one client cannot lock others out.
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

# A subscriber of IPv6 can send from every address of its network.
IPV6_PREFIX = 64
# Some proxies add the client's port.
WITH_PORT = re.compile(r"^(?:\[([^\]]*)\](?::\d+)?|([^:]*):\d+)$")
LIMITED = prometheus_client.Counter("recoup_requests_limited", "Requests that were answered with a 429.", ["limit"])


class RateLimited(Throttled):
    """A 429. The message names the limit and when to try again."""

    def __init__(self, what: str, *, seconds: float) -> None:
        wait = max(1, math.ceil(seconds))
        super().__init__(wait)
        self.detail = f"{what} Try again in {wait} seconds."  # type: ignore[assignment]


class CredentialThrottle(BaseThrottle):
    def allow_request(self, request: Request, view: APIView) -> bool:
        credential = request.auth
        if credential is None:
            return True
        maximum = settings.REQUESTS_PER_MINUTE
        exceeded = rate_limits.take(
            Limit(f"requests:{type(credential).__name__}:{credential.pk}", maximum), at=time.time()
        )
        if exceeded is not None:
            LIMITED.labels("credential").inc()
            message = f"More than {maximum} requests per minute with this credential."
            raise RateLimited(message, seconds=exceeded.seconds)
        return True


def count_failure(request: Request) -> None:
    """Counts a request that did not authenticate. Raises RateLimited where its address has had too many."""
    maximum = settings.AUTH_FAILURES_PER_MINUTE
    exceeded = rate_limits.take(Limit(f"failures:{network_of(request)}", maximum), at=time.time())
    if exceeded is not None:
        LIMITED.labels("address").inc()
        message = f"More than {maximum} requests per minute without a valid credential from your address."
        raise RateLimited(message, seconds=exceeded.seconds)


def network_of(request: Request) -> str:
    """The client's address, as seen by the trusted proxies. For IPv6, the network of the client."""
    address = WITH_PORT.sub(r"\1\2", str(BaseThrottle().get_ident(request)))
    with suppress(ValueError):
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address):
            mapped = found.ipv4_mapped
            return str(mapped or ipaddress.ip_network((found, IPV6_PREFIX), strict=False))
    return address[:64]
