"""What staff see: the state of a task in one sentence, its timeline, runs, buttons, the index and the search."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts.models import ArtistLink, Event, Membership, Organization
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.admin import timeline
from tasks.admin.search import MAX_FOUND
from tasks.admin.state import Level, State, duration, state_of
from tasks.admin.tasks import CUT
from tasks.models import MissedRun, Run, SyncFailure, Task
from tests.cast import Cast, make_task

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("sofie", password="a long password"))
    return client


def run_of(task: Task, status: str, *, hours: float, run_id: str = "run_x", now: datetime = NOW) -> Run:
    at = now - timedelta(hours=hours)
    data = json.dumps({"id": run_id, "status": status, "costInCents": 1.5, "durationMs": 42000})
    is_final = status not in ("QUEUED", "EXECUTING")
    return Run(
        pk=run_id, task=task, status=status, is_final=is_final, created_at=at, updated_at=at, stored_at=at, data=data
    )


def page_of(browser: Client, task: Task) -> str:
    response = browser.get(f"/admin/tasks/task/{task.pk}/change/")
    assert response.status_code == 200
    return response.content.decode()


def said(task: Task, **changes: Any) -> State:
    values: dict[str, Any] = {"runs": [], "missed": None, "events": [], "last_error": "", "upcoming": [], "now": NOW}
    return state_of(task, **{**values, **changes})


# --- Why did it not run ----------------------------------------------------------------------------------------------


def a_task(**fields: Any) -> Task:
    return Task(synced_generation=1, updated_at=NOW - timedelta(minutes=20), **fields)


def pause_event(reason: str = "") -> Event:
    kind = Event.ActorKind.STAFF
    return Event(action="updated", after={"enabled": False}, actor_kind=kind, actor_id="sofie", at=NOW, reason=reason)


AWAY = "Trigger.dev cannot be reached."
STATES = {
    "paused": (
        lambda task: said(a_task(enabled=False), events=[pause_event("Too expensive")]),
        Level.NOTE,
        "Paused by sofie on 28 Nov 2026. Reason: Too expensive",
    ),
    "paused before events were kept": (lambda task: said(a_task(enabled=False)), Level.NOTE, "Paused."),
    "paused, and not yet at Trigger.dev": (
        lambda task: said(a_task(enabled=False, generation=2, sync_error="It is away.")),
        Level.WARNING,
        "Paused, and not yet at Trigger.dev: It is away. It may still run.",
    ),
    "refused": (
        lambda task: said(a_task(refused_generation=1, sync_error="Invalid cron")),
        Level.ERROR,
        "Trigger.dev refuses the schedule: Invalid cron.",
    ),
    "Trigger.dev is away": (
        lambda task: said(a_task(generation=2, sync_error=AWAY, trigger_schedule_id="sched_1")),
        Level.WARNING,
        "Not yet at Trigger.dev since 20 min: Trigger.dev cannot be reached.",
    ),
    "never scheduled": (
        lambda task: said(a_task(generation=2, sync_error=AWAY, created_at=NOW - timedelta(hours=2))),
        Level.WARNING,
        "Never scheduled: Trigger.dev cannot be reached. It was created 2 h ago.",
    ),
    "failed": (
        lambda task: said(
            task,
            runs=[run_of(task, status, hours=hours) for hours, status in enumerate(["FAILED", "COMPLETED", "CRASHED"])],
            last_error="rate limited",
        ),
        Level.ERROR,
        "Failed 2 of the last 3 runs. The last error: rate limited.",
    ),
    "failed before": (
        lambda task: said(
            task,
            runs=[run_of(task, status, hours=3) for status in ("COMPLETED", "FAILED")],
            upcoming=[NOW + timedelta(hours=3)],
        ),
        Level.WARNING,
        "1 of the last 2 runs failed. The last run is COMPLETED, started 3 h ago. The next run is in 3 h.",
    ),
    "missed": (
        lambda task: said(task, missed=MissedRun(expected_at=NOW - timedelta(hours=3))),
        Level.ERROR,
        "Missed its run of 28 Nov 2026 09:00 UTC: Trigger.dev did not start one.",
    ),
    "missed, and has run since": (
        lambda task: said(
            task, missed=MissedRun(expected_at=NOW - timedelta(hours=3)), runs=[run_of(task, "COMPLETED", hours=1)]
        ),
        Level.OK,
        "Runs as planned. The last run is COMPLETED, started 60 min ago. It has no next run.",
    ),
    "never": (
        lambda task: said(task, upcoming=[NOW + timedelta(days=3)]),
        Level.NOTE,
        "Has not run yet. The next run is in 3 days.",
    ),
    "deleted": (
        lambda task: said(
            a_task(deleted_at=NOW),
            events=[Event(action="deleted", actor_kind="account", actor_id="x", at=NOW)],
        ),
        Level.NOTE,
        "Deleted by its owner's side on 28 Nov 2026.",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_one_sentence_says_why_a_task_does_not_run(name: str) -> None:
    make, level, sentence = STATES[name]
    state = make(a_task())
    assert (state.level, state.sentence) == (level, sentence)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59, "59 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_a_duration_is_in_a_unit_of_which_there_are_two(seconds: int, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_a_deleted_paused_task_was_deleted_and_not_resumed() -> None:
    event = Event(action="deleted", before={"enabled": False}, at=NOW)
    assert timeline.change_of(event) == "Deleted"


def test_the_timeline_shows_the_last_thirty_days_and_says_them_in_words() -> None:
    task = a_task()
    runs = [run_of(task, "FAILED", hours=24), run_of(task, "COMPLETED", hours=31 * 24)]
    missed = [MissedRun(expected_at=NOW - timedelta(hours=5))]
    event = Event(action="updated", after={"title": "</svg><script>"}, at=NOW - timedelta(hours=1))
    failure = SyncFailure(at=NOW - timedelta(minutes=5), reason="Trigger.dev is <away>")
    svg = timeline.svg(timeline.marks_of(runs, missed, [event], [failure]), now=NOW)
    assert svg.count("<circle") == 1
    assert '<desc id="timeline-text">Run FAILED: 1; No run came: 1; Changed title: 1; ' in svg
    assert "Not at Trigger.dev: Trigger.dev is &lt;away&gt;: 1</desc>" in svg
    assert "<script" not in svg


# --- The page --------------------------------------------------------------------------------------------------------


def test_the_page_of_a_failing_task_shows_the_last_error_and_its_run(
    browser: Client, cast: Cast, trigger: Standin
) -> None:
    task = make_task(cast.alice, cast.artist)
    error = {"message": "The model is <overloaded>", "name": "Error"}
    ends: dict[str, Any] = {"ends_as": "COMPLETED_WITH_ERRORS", "error": error}
    standin_run = StandinRun("customer-prompt-task", trigger.state.now - 600, "run_failed1", **ends)
    trigger.state.add_run(standin_run)
    run_of(task, "FAILED", hours=1, run_id="run_failed1", now=timezone.now()).save(force_insert=True)
    page = page_of(browser, task)
    assert "Failed 1 of the last 1 runs. The last error: The model is &lt;overloaded&gt;." in page
    assert "/admin/tasks/run/run_5Ffailed1/change/" in page
    assert "42 s" in page
    assert "0.0150 $" in page


def test_the_page_of_a_run_shows_its_payload_and_its_output(browser: Client, cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist)
    output = {"text": "<b>done</b>"}
    run = StandinRun("create-content", trigger.state.now - 600, "run_done1", has_output=True, output=output)
    trigger.state.add_run(run)
    run_of(task, "COMPLETED", hours=1, run_id="run_done1").save(force_insert=True)
    listed = browser.get("/admin/tasks/run/").content.decode()
    (address,) = set(re.findall(r'href="(/admin/tasks/run/[^"?]*/change/)', listed))
    page = browser.get(address).content.decode()
    assert "&lt;b&gt;done&lt;/b&gt;" in page
    trigger.faults.add(Fault("hang"))
    run_of(task, "COMPLETED", hours=1, run_id="run_away1").save(force_insert=True)
    page = browser.get("/admin/tasks/run/run_away1/change/").content.decode()
    assert "This is the stored copy" in page


@pytest.mark.parametrize("name", ["pause", "resume", "run-now", "sync-now"])
def test_a_button_asks_before_it_acts_and_records_the_reason(
    browser: Client, cast: Cast, trigger: Standin, name: str
) -> None:
    task = make_task(cast.alice, cast.artist, enabled=name != "resume")
    address = f"/admin/tasks/task/{task.pk}/do/{name}/"
    page = browser.get(address)
    assert 'name="reason"' in page.content.decode()
    assert not Event.objects.exists()
    answer = browser.post(address, {"reason": "Because\x00 of costs"})
    assert answer.status_code == 302
    task.refresh_from_db()
    assert task.is_enabled == (name != "pause")
    reasons = [] if name == "sync-now" else ["Because of costs"]
    assert list(Event.objects.values_list("reason", flat=True)) == reasons
    if name == "pause":
        assert "Reason: Because of costs" in page_of(browser, task)


def test_a_pause_that_does_not_reach_trigger_says_so(browser: Client, cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist)
    trigger.faults.add(Fault("hang"))
    answer = browser.post(f"/admin/tasks/task/{task.pk}/do/pause/", follow=True)
    assert "paused here, and not yet at Trigger.dev" in answer.content.decode()
    selected = {"action": "resume", "_selected_action": [str(task.pk)]}
    page = browser.post("/admin/tasks/task/", selected, follow=True).content.decode()
    assert "1 resumed, 0 of them also at Trigger.dev." in page


def test_deleting_says_what_is_erased_and_what_remains(browser: Client, cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    page = browser.get(f"/admin/tasks/task/{task.pk}/delete/").content.decode()
    assert "The title and the prompt are erased" in page


@pytest.mark.parametrize("path", ["do/dance/", "do/pause/"])
def test_a_button_of_a_task_that_is_gone_is_a_404(browser: Client, cast: Cast, path: str) -> None:
    task = make_task(cast.alice, cast.artist, deleted_at=timezone.now())
    assert browser.get(f"/admin/tasks/task/{task.pk}/{path}").status_code == 404
    assert browser.post(f"/admin/tasks/task/x/{path}").status_code == 404


def test_an_artist_that_the_api_refuses_is_refused(browser: Client, cast: Cast) -> None:
    data = {"title": "T", "prompt": "P", "schedule": "0 9 * * *", "timezone": "UTC", "enabled": "true", "model": ""}
    data |= {"account": str(cast.alice.pk), "artist_account": str(cast.artist.pk)}
    page = browser.post("/admin/tasks/task/add/", data).content.decode()
    assert "does not work with this artist_account_id" in page
    assert not Task.objects.exists()
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    assert browser.post("/admin/tasks/task/add/", data).status_code == 302


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"schedule": "0 9 * * 1-5", "timezone": "Europe/Paris"}, "At 09:00 AM, Monday through Friday"),
        ({"schedule": "* 9 * * *"}, "It runs in consecutive minutes"),
        ({"schedule": "0 9 * * *", "timezone": "EST"}, "summer"),
        ({"schedule": "every day"}, "is not a valid cron expression"),
        ({"schedule": ""}, "five fields"),
        ({"timezone": "x", "schedule": "0 9 * * *"}, "timezone"),
    ],
)
def test_a_schedule_is_explained_while_it_is_typed(browser: Client, query: dict[str, str], found: str) -> None:
    answer = browser.get("/admin/tasks/task/preview/", query)
    assert (answer.status_code, found in answer.content.decode()) == (200, True)


# --- The list and the index ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("Weekly", "alice", "The Artist", "label", "ALICE@example.com"),
        *("{task}", "{alice}", "run_of_task", "sched_of_task"),
    ],
)
def test_a_task_is_found_by_what_people_know_of_it(
    browser: Client, cast: Cast, text: str, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_of_task")
    make_task(cast.charlie, cast.bob, title="Another")
    run_of(task, "COMPLETED", hours=1, run_id="run_of_task").save(force_insert=True)
    with django_assert_max_num_queries(10):
        page = browser.get("/admin/tasks/task/", {"q": text.format(task=task.pk, alice=cast.alice.pk)})
    assert "Weekly report" in page.content.decode()
    assert "Another" not in page.content.decode()


@pytest.mark.parametrize(("count", "is_said"), [(MAX_FOUND, True), (MAX_FOUND - 1, False)])
def test_a_search_says_when_more_may_match(browser: Client, cast: Cast, count: int, is_said: bool) -> None:
    people = {"account": cast.alice, "artist_account": cast.artist}
    titles = [*["Same"] * count, "Other"]
    Task.objects.bulk_create([Task(title=title, prompt="p", schedule="0 9 * * *", **people) for title in titles])
    page = browser.get("/admin/tasks/task/", {"q": "Same", "_facets": "True"}).content.decode()
    assert page.count(CUT) == is_said
    assert CUT not in browser.get("/admin/tasks/task/").content.decode()
    assert "Other" not in page


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ("", {"Living", "Failing", "Missing"}),
        ("deleted=yes", {"Gone"}),
        ("deleted=all", {"Living", "Failing", "Missing", "Gone"}),
        ("last=failed", {"Failing"}),
        ("last=missed", {"Missing"}),
        ("last=never", {"Living", "Missing"}),
        ("last=nonsense", {"Living", "Failing", "Missing"}),
        ("state=paused", set()),
        ("state=running", {"Living", "Failing", "Missing"}),
        ("q=i&last=failed", {"Failing"}),
    ],
)
def test_the_list_shows_living_tasks_and_its_filters_choose(
    browser: Client, cast: Cast, query: str, titles: set[str]
) -> None:
    make_task(cast.alice, cast.artist, title="Living")
    make_task(cast.alice, cast.artist, title="Failing", last_run_status="FAILED")
    make_task(cast.alice, cast.artist, title="Gone", deleted_at=timezone.now(), last_run_status="COMPLETED")
    missing = make_task(cast.alice, cast.artist, title="Missing")
    MissedRun.objects.create(task=missing, expected_at=timezone.now(), noticed_at=timezone.now())
    page = browser.get(f"/admin/tasks/task/?{query}").content.decode()
    assert {title for title in ("Living", "Failing", "Missing", "Gone") if f">{title}</a>" in page} == titles


def test_the_index_says_what_needs_attention(browser: Client, cast: Cast) -> None:
    make_task(cast.alice, cast.artist, last_run_status="FAILED")
    make_task(cast.alice, cast.artist, refused_generation=1)
    pending = make_task(cast.alice, cast.artist, generation=2)
    Task.objects.filter(pk=pending.pk).update(updated_at=timezone.now() - timedelta(minutes=6))
    MissedRun.objects.create(task=pending, expected_at=timezone.now(), noticed_at=timezone.now())
    page = browser.get("/admin/")
    assert [row["count"] for row in page.context["attention"]] == ["1", "1", "1", "1"]
    assert "What needs attention" in page.content.decode()


@pytest.mark.parametrize("path", ["/admin/tasks/run/run_unknown/change/", "/admin/tasks/run/x/change/"])
def test_a_page_of_an_unknown_run_asks_nobody(browser: Client, trigger: Standin, path: str) -> None:
    assert browser.get(path).status_code == 302
    assert trigger.asked["all"] == 0


@pytest.mark.parametrize("data", ["{", "[]", '{"durationMs": 1' + "0" * 400 + "}", '{"costInCents": "x"}', ""])
def test_a_run_with_odd_data_is_shown(browser: Client, cast: Cast, data: str) -> None:
    task = make_task(cast.alice, cast.artist)
    run = run_of(task, "COMPLETED", hours=1)
    run.data = data
    run.save(force_insert=True)
    assert "COMPLETED" in page_of(browser, task)


def test_staff_without_a_role_see_no_tasks_on_the_index(db: None) -> None:
    client = Client()
    client.force_login(get_user_model().objects.create_user("new", password="a long password", is_staff=True))
    assert "What needs attention" not in client.get("/admin/").content.decode()


def test_nothing_on_the_pages_comes_from_elsewhere(browser: Client, cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    Membership.objects.get_or_create(account=cast.alice, organization=Organization.objects.get(name="Label"))
    for page in (page_of(browser, task), browser.get("/admin/").content.decode()):
        assert 'src="http' not in page
        assert "<script>" not in page
