"""Fields that a query and a body share: a cron and a time zone, checked by the same rules."""

from typing import Any

from rest_framework import serializers

from core.serializers import TextField
from core.text import quoted
from tasks import cron
from tasks.cron import zones


class CronField(TextField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_characters=cron.MAX_LENGTH, **kwargs)

    def check(self, text: str) -> None:
        try:
            cron.check(text)
        except cron.CronError as error:
            raise serializers.ValidationError(f"is not a valid cron expression. {error}") from None


class TimeZoneField(TextField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_characters=64, min_length=None, **kwargs)

    def check(self, text: str) -> None:
        try:
            zones.check(text)
        except zones.ZoneError as error:
            raise serializers.ValidationError(f"{quoted(text)}: {error}") from None
