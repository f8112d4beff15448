"""What an expression says in English: true, or the expression itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import cron

VERDICTS = Path(__file__).parents[2] / "data" / "cron-verdicts.jsonl"


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 9 * * 1-5", "At 09:00 AM, Monday through Friday"),
        ("0 9 * * 5-7", "At 09:00 AM, Friday through Sunday"),
        ("*/15 9-17 * * *", "Every 15 minutes, between 09:00 AM and 05:59 PM"),
        ("5/15 * * * *", "Every 15 minutes, starting at 5 minutes past the hour"),
        ("0 */6 * * *", "Every 6 hours"),
        ("0 9 * * 5L", "At 09:00 AM, on the last Friday of the month"),
        ("0 9 * * 1#2", "At 09:00 AM, on the second Monday of the month"),
        ("0 9 L * *", "At 09:00 AM, on the last day of the month"),
        ("0 9 1 * *\n", "At 09:00 AM, on day 1 of the month"),
        # What cron-descriptor would say of the text is not true of these.
        ("*/99 * * * *", "Every hour"),
        ("*/15 9,12 * * *", "At 0, 15, 30, and 45 minutes past the hour, at 09:00 AM and 12:00 PM"),
        ("*/25 * * * *", "At 0, 25, and 50 minutes past the hour"),
        ("0 */5 * * *", "At 12:00 AM, 05:00 AM, 10:00 AM, 03:00 PM and 08:00 PM"),
        ("0 9-17/3 * * *", "At 09:00 AM, 12:00 PM and 03:00 PM"),
        ("0 9 * * 3/2", "At 09:00 AM, only on Sunday, Wednesday, and Friday"),
        ("0 9 1 * 1-2", "At 09:00 AM, on day 1 of the month, or on Monday and Tuesday"),
        ("0 9 1 * 0-6", "At 09:00 AM"),
        ("0 9 1-31 * *", "At 09:00 AM"),
    ],
)
def test_an_expression_has_true_words(expression: str, words: str) -> None:
    assert cron.describe(expression) == words


@pytest.mark.parametrize(
    "expression",
    ["0 9 15,L * *", "0 9 */2 * *", "* 9,12 * * *", "* */6 * * *", "0 9 1 * 1#2", "0 9 1-30 * 1", "0 9 * * 1L,5"],
)
def test_an_expression_without_true_words_is_shown_itself(expression: str) -> None:
    assert cron.describe(expression) == expression


def test_most_accepted_expressions_have_words_and_none_fails() -> None:
    accepted = [row["cron"] for row in map(json.loads, VERDICTS.read_text().splitlines()) if "next" in row]
    worded = 0
    for expression in accepted:
        try:
            worded += cron.describe(expression) != expression
        except cron.CronError:
            continue
    assert worded > 1_400


def test_nothing_is_written_to_standard_error_without_a_locale() -> None:
    code = "from tasks import cron; print(cron.describe('0 9 * * 1'))"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("At 09:00 AM, only on Monday\n", "")
