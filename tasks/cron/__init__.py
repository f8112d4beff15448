"""Cron as Trigger.dev reads it: whether an expression is valid, when it fires next, and what it says in English."""

from tasks.cron.expressions import MAX_LENGTH, CronError, check, describe, next_times

__all__ = ["MAX_LENGTH", "CronError", "check", "describe", "next_times"]
