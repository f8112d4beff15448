"""The production's settings, with one more view, and a header that counts queries when it is asked to."""

from recoup.settings import *  # noqa: F403
from recoup.settings import MIDDLEWARE

ROOT_URLCONF = "bench.urls"
MIDDLEWARE = [*MIDDLEWARE, "bench.bare.count_queries"]
