"""The production settings, plus two views and a middleware that counts queries if a request header asks for it."""

from recoup.settings import *  # noqa: F403
from recoup.settings import MIDDLEWARE

# No rate limits: the benchmark measures the cost of requests.
TRIGGER_CALLS_PER_MINUTE = REQUESTS_PER_MINUTE = 10**9
ROOT_URLCONF = "bench.urls"
MIDDLEWARE = [*MIDDLEWARE, "bench.bare.count_queries"]
