"""Cron as Trigger.dev reads it: whether an expression is valid, when it fires next, and what it says in English."""

from tasks.cron.expressions import MAX_LENGTH, CronError
from tasks.cron.fire_times import check, next_times
from tasks.cron.words import describe

__all__ = ["MAX_LENGTH", "CronError", "check", "describe", "next_times"]
