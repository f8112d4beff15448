"""A cron expression in English, as Trigger.dev's screens say it."""

from functools import lru_cache

from cron_descriptor import FormatError, Options, get_description

from tasks import cron

WORDS = Options()
WORDS.locale_code, WORDS.use_24hour_time_format = "en_US", False


@lru_cache(maxsize=4096)
def in_words(expression: str) -> str:
    """Itself, where the library has no words for it, as for `0 *,* * * *`. Raises cron.CronError."""
    cron.check(expression)
    try:
        return get_description(expression.strip(), WORDS)
    except FormatError:
        return expression
