"""The production's settings, with one more view, and a header that counts queries when it is asked to."""

from recoup.settings import *  # noqa: F403
from recoup.settings import MIDDLEWARE

# What is measured is what a request costs, and not whether so many are permitted.
TRIGGER_CALLS_PER_MINUTE = REQUESTS_PER_MINUTE = 10**9
ROOT_URLCONF = "bench.urls"
MIDDLEWARE = [*MIDDLEWARE, "bench.bare.count_queries"]
