import logging

from django.utils import timezone

from accounts import events
from accounts.models import Event
from tests.cast import TESTER, Cast, make_key, make_task
from tests.leaks import Leaks


def test_the_watch_of_all_tests_finds_keys_tokens_and_prompts(cast: Cast) -> None:
    leaks, logger = Leaks(), logging.getLogger("leaky")
    logger.propagate = False
    logger.addHandler(leaks)
    task = make_task(cast.alice, cast.artist, prompt="A prompt")
    leaks.saw_task(task)
    leaks.saw_event(Event(after={"prompt": "say: A prompt"}))
    logger.warning("The key %s", make_key(cast.alice))
    logger.warning("The token eyJhbGciOiJFUzI1NiJ9.eyJzdWIi.x")
    logger.warning("Nothing at all")
    events.record("created", task, account_id=None, actor=TESTER, at=timezone.now(), after=events.snapshot(task))
    logger.removeHandler(leaks)
    assert len(leaks.found()) == 3
