"""Questions under way: whose turn it is, who pays, and who is given somebody else's answer."""

import threading
from functools import partial
from typing import Any

import pytest

from demo.standin.standin import Standin
from tasks.gateway import upstream
from tasks.gateway.budget import Lookup, Payer, in_the_name_of, paid_by, payer
from tasks.gateway.flights import FairThreads
from tasks.trigger import errors


def test_what_one_asks_for_by_the_hundred_does_not_hold_up_the_next() -> None:
    threads, order, hold = FairThreads(1, "fair"), list[str](), threading.Event()
    threads.submit("first", partial(hold.wait, 10))
    for _ in range(100):
        threads.submit("greedy", partial(order.append, "greedy"))
    threads.submit("modest", partial(order.append, "modest"))
    assert threads.waiting("greedy") == 100
    hold.set()
    threads.shutdown()
    assert (order.index("modest"), len(order)) == (1, 101)


def test_a_job_that_was_cancelled_or_fails_holds_up_nobody() -> None:
    threads, hold = FairThreads(1, "fair"), threading.Event()
    threads.submit("a", partial(hold.wait, 10))
    cancelled, failing, last = (threads.submit("a", call) for call in (list, partial(int, "x"), list))
    cancelled.cancel()
    hold.set()
    threads.shutdown()
    assert isinstance(failing.exception(), ValueError)
    assert last.result() == []


def test_no_asker_has_all_of_the_threads() -> None:
    threads, hold, done = FairThreads(2, "fair", most_for_one=1), threading.Event(), threading.Event()
    for _ in range(5):
        threads.submit("greedy", partial(hold.wait, 10))
    threads.submit("modest", done.set)
    assert done.wait(10)
    hold.set()
    threads.shutdown()
    assert threads.waiting("greedy") == 0


def test_a_call_is_paid_by_who_asked_for_it_in_another_thread_too() -> None:
    with paid_by("alice"):
        call = in_the_name_of(payer.get(), payer.get)
    assert (call(), payer.get()) == (Payer("alice"), None)


@pytest.mark.usefixtures("clock")
def test_whatever_one_payer_asks_for_it_is_one_asker(trigger: Standin) -> None:
    """Lists, lookups and polls together leave a thread to the next."""
    hold = threading.Event()
    kinds = (Payer("greedy"), Payer("greedy", is_poll=True), Payer("greedy", lookup=Lookup()))
    for number in range(60):
        begin = partial(upstream.start_call, f"question {number}", partial(hold.wait, 10), then=lambda answer: None)
        in_the_name_of(kinds[number % 3], begin)()
    with paid_by("modest"):
        answer = upstream.wait_for_call(lambda: "answered", deadline=upstream.deadline_from_now())
    hold.set()
    assert answer == "answered"


@pytest.mark.usefixtures("clock")
def test_a_question_that_somebody_else_could_not_pay_is_asked_once_more_by_who_can(trigger: Standin) -> None:
    begun, refuse, answers = threading.Event(), threading.Event(), list[Any]()

    def cannot_pay() -> Any:
        begun.set()
        refuse.wait(10)
        raise errors.QuotaExceeded(retry_after=9, reason="share")

    def ask_together(call: Any) -> Any:
        return upstream.wait_for_calls({"question": call}, deadline=upstream.deadline_from_now())["question"]

    poor = threading.Thread(target=lambda: ask_together(cannot_pay))
    rich = threading.Thread(target=lambda: answers.append(ask_together(lambda: "answered")))
    poor.start()
    begun.wait(10)
    rich.start()
    upstream.flights().threads.submit("later", refuse.set)
    for thread in (poor, rich):
        thread.join(10)
    assert answers == ["answered"]
