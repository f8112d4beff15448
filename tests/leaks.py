"""Watches what every test writes to logs and events: no key, no token and no prompt may be in it."""

import json
import logging
import re
from typing import Any

from django.db.models.signals import post_save

from accounts.models import Event
from tasks.models import Task

KEY_OR_TOKEN = re.compile(r"recoup_sk_[A-Za-z0-9_-]{43}|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.")
LOGGERS = ("", "django")
# A shorter prompt could be a word of a message.
MIN_PROMPT = 8


class Leaks(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.prompts: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(f"log {record.name}: {self.format(record)}")

    def saw_event(self, instance: Event, **kwargs: Any) -> None:
        values = [instance.before, instance.after, instance.reason, instance.actor_id, instance.target_id]
        self.written.append(f"event: {json.dumps(values, ensure_ascii=False)}")

    def saw_task(self, instance: Task, **kwargs: Any) -> None:
        if len(instance.prompt) >= MIN_PROMPT and instance.prompt != instance.title:
            self.prompts.add(instance.prompt)

    def start(self) -> None:
        post_save.connect(self.saw_event, sender=Event)
        post_save.connect(self.saw_task, sender=Task)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)

    def stop(self) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
        post_save.disconnect(self.saw_event, sender=Event)
        post_save.disconnect(self.saw_task, sender=Task)

    def found(self) -> list[str]:
        return [
            text for text in self.written if KEY_OR_TOKEN.search(text) or any(prompt in text for prompt in self.prompts)
        ]
