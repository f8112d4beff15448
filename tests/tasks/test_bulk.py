"""Bulk jobs: many tasks are changed by the worker, and the counts are what Trigger.dev has."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from accounts.models import Account, ArtistLink, Event, Organization
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from tasks import bulk, writes
from tasks.admin.tasks import MAX_AT_ONCE
from tasks.models import BulkJob, BulkJobTask, RunRequest, Task
from tests.cast import TESTER, Cast, make_task

KIND = BulkJob.Kind


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("sofie", password="a long password"))
    return client


def make_tasks(account: Account, artist: Account, count: int) -> list[Task]:
    """Tasks with schedules at Trigger.dev."""
    ArtistLink.objects.get_or_create(artist_account=artist, account=account)
    fields = {"account_id": account.pk, "artist_account_id": artist.pk, "prompt": "Write it.", "schedule": "0 9 * * *"}
    return [
        writes.create_task({**fields, "title": f"Task {number}"}, actor=TESTER, at=timezone.now())
        for number in range(count)
    ]


def job_of(tasks: list[Task], kind: BulkJob.Kind = KIND.PAUSE) -> BulkJob:
    values: dict[str, Any] = {"about": "these", "requested_by": "sofie", "reason": "Too expensive"}
    return bulk.create_job(kind, [task.pk for task in tasks], **values, at=timezone.now())


def work(job: BulkJob) -> int:
    """All steps of the worker. How many there were."""
    steps = 0
    while bulk.step():
        steps += 1
    job.refresh_from_db()
    return steps


def test_all_tasks_of_a_job_are_paused_in_steps_and_the_count_is_what_trigger_holds(
    cast: Cast, trigger: Standin
) -> None:
    tasks = make_tasks(cast.alice, cast.artist, 45)
    job = job_of(tasks)
    assert str(bulk.progress_of(job)) == "0 of 45 tasks: 0 done. 0 of 0 are so at Trigger.dev too."
    bulk.step()
    assert bulk.progress_of(job).done == bulk.STEP
    assert work(job) == 2
    assert job.finished_at is not None
    assert str(bulk.progress_of(job)) == "45 of 45 tasks: 45 done. 45 of 45 are so at Trigger.dev too."
    assert [schedule.active for schedule in trigger.state.schedules()] == [False] * 45
    events = Event.objects.filter(action="updated", actor_id="sofie", reason="Too expensive")
    assert events.count() == 45


def test_a_job_while_trigger_is_away_says_that_nothing_has_reached_it(cast: Cast, trigger: Standin) -> None:
    tasks = make_tasks(cast.alice, cast.artist, 3)
    trigger.faults.add(Fault("status", status=503))
    job = job_of(tasks)
    work(job)
    assert str(bulk.progress_of(job)) == "3 of 3 tasks: 3 done. 0 of 3 are so at Trigger.dev too."
    trigger.faults.clear()
    for task in tasks:
        Task.objects.filter(pk=task.pk).update(lease_until=None, unsettled_until=None, generation=task.generation + 5)
    sync = job_of(tasks, KIND.SYNC)
    work(sync)
    assert [one.active for one in trigger.state.schedules()] == [False] * 3
    assert bulk.progress_of(job).in_sync == 3


def test_tasks_that_were_paused_already_or_deleted_meanwhile_are_counted_apart(cast: Cast, trigger: Standin) -> None:
    paused, gone, living = make_tasks(cast.alice, cast.artist, 3)
    writes.update_task(paused, {"enabled": False}, actor=TESTER, at=timezone.now())
    job = job_of([paused, gone, living])
    writes.delete_task(gone, actor=TESTER, at=timezone.now())
    work(job)
    assert str(bulk.progress_of(job)).startswith("3 of 3 tasks: 1 done, 1 were so already, 1 failed.")
    assert job.items.get(task=gone).message == "It was deleted."


def test_a_task_that_a_killed_worker_has_claimed_is_done_later(cast: Cast, trigger: Standin) -> None:
    task, *_ = make_tasks(cast.alice, cast.artist, 1)
    job = job_of([task])
    now = timezone.now()
    job.items.update(claimed_at=now)
    assert bulk.step(now=lambda: now) == 0
    assert bulk.step(now=lambda: now + bulk.CLAIM + timedelta(seconds=1)) == 1
    job.refresh_from_db()
    assert job.finished_at is not None


def test_a_task_that_was_paused_before_the_worker_was_killed_is_resumed_with_the_others(
    cast: Cast, trigger: Standin
) -> None:
    """It is killed during its call to Trigger.dev."""
    task, *_ = make_tasks(cast.alice, cast.artist, 1)
    job, before = job_of([task]), trigger.before

    def kill(request: Any) -> None:
        raise SystemExit

    trigger.before = kill
    with pytest.raises(SystemExit):
        bulk.step()
    trigger.before = before
    work(job)
    assert job.items.get().outcome == "done"


def test_the_count_of_a_job_is_what_is_true_now(cast: Cast, trigger: Standin) -> None:
    task, *_ = make_tasks(cast.alice, cast.artist, 1)
    job = job_of([task])
    work(job)
    writes.update_task(task, {"enabled": True}, actor=TESTER, at=timezone.now())
    assert str(bulk.progress_of(job)) == "1 of 1 tasks: 1 done. 0 of 1 are so at Trigger.dev too."


def test_too_many_tasks_for_a_job_are_an_error_on_the_page(
    browser: Client, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_TASKS", MAX_AT_ONCE)
    tasks = [make_task(cast.alice, cast.artist) for _ in range(MAX_AT_ONCE + 1)]
    page = act(browser, "pause", tasks, number="101").content.decode()
    assert "A job may have 100 tasks, and these are more" in page
    assert not BulkJob.objects.exists()


def test_more_than_a_hundred_tasks_are_never_deleted_at_once(browser: Client, cast: Cast, trigger: Standin) -> None:
    tasks = [make_task(cast.alice, cast.artist) for _ in range(MAX_AT_ONCE + 1)]
    page = act(browser, "delete_selected", tasks, post="yes").content.decode()
    assert "Nothing was deleted" in page
    assert not Task.objects.filter(deleted_at__isnull=False).exists()


def test_a_job_of_too_many_tasks_is_not_made(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_TASKS", 1)
    with pytest.raises(bulk.TooManyTasks):
        job_of([make_task(cast.alice, cast.artist) for _ in range(2)])
    assert (BulkJob.objects.count(), BulkJobTask.objects.count()) == (0, 0)


# --- In the admin site -----------------------------------------------------------------------------------------------


def act(browser: Client, action: str, tasks: list[Task], **more: Any) -> Any:
    selected = {"action": action, "_selected_action": [str(task.pk) for task in tasks], **more}
    return browser.post("/admin/tasks/task/", selected, follow=True)


def test_more_tasks_than_a_hundred_become_a_job_with_a_page(browser: Client, cast: Cast, trigger: Standin) -> None:
    tasks = [make_task(cast.alice, cast.artist) for _ in range(MAX_AT_ONCE + 1)]
    selected = {"action": "pause", "select_across": "1", "_selected_action": [str(tasks[0].pk)]}
    page = browser.post("/admin/tasks/task/", selected).content.decode()
    assert "Type the number of tasks, 101" in page
    assert not BulkJob.objects.exists()
    page = browser.post("/admin/tasks/task/", {**selected, "number": "101"}, follow=True).content.decode()
    assert "In progress: 0 of 101 tasks" in page
    assert "data-unfinished" in page
    assert Task.objects.filter(enabled=True).count() == 101
    job = BulkJob.objects.get()
    work(job)
    page = browser.get(f"/admin/tasks/bulkjob/{job.pk}/change/").content.decode()
    assert "Finished: 101 of 101 tasks: 101 done." in page
    assert "data-unfinished" not in page


def test_resuming_takes_just_the_tasks_that_the_job_has_paused(browser: Client, cast: Cast, trigger: Standin) -> None:
    before, *paused = make_tasks(cast.alice, cast.artist, 3)
    writes.update_task(before, {"enabled": False}, actor=TESTER, at=timezone.now())
    data = {"kind": "pause", "account": str(cast.alice.pk), "organization": "", "reason": "Holidays"}
    assert browser.post("/admin/tasks/bulkjob/add/", data).status_code == 302
    job = BulkJob.objects.get()
    assert (job.about, job.items.count()) == ("all tasks of Alice", 3)
    work(job)
    assert not Task.objects.filter(enabled=True).exists()
    browser.post(f"/admin/tasks/bulkjob/{job.pk}/resume/")
    work(BulkJob.objects.get(kind="resume"))
    assert set(Task.objects.filter(enabled=True)) == set(paused)


def test_a_job_of_an_organization_takes_the_tasks_of_its_accounts(browser: Client, cast: Cast) -> None:
    for account in (cast.alice, cast.bob, cast.charlie):
        make_task(account, cast.artist)
    data = {"kind": "pause", "account": "", "organization": str(Organization.objects.get(name="Label").pk)}
    browser.post("/admin/tasks/bulkjob/add/", data)
    owners = BulkJobTask.objects.values_list("task__account__name", flat=True)
    assert sorted(owners) == ["Alice", "Bob"]


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "pause"},
        {"kind": "dance", "account": "{alice}"},
        {"kind": "pause", "account": "x"},
        {"kind": "pause", "account": "{alice}", "organization": "{label}"},
    ],
)
def test_a_job_without_one_account_or_organization_is_refused(
    browser: Client, cast: Cast, data: dict[str, str]
) -> None:
    ids = {"alice": cast.alice.pk, "label": Organization.objects.get(name="Label").pk}
    response = browser.post("/admin/tasks/bulkjob/add/", {name: value.format(**ids) for name, value in data.items()})
    assert response.status_code == 200
    assert not BulkJob.objects.exists()


def test_running_several_tasks_asks_to_type_their_number(browser: Client, cast: Cast, trigger: Standin) -> None:
    tasks = [make_task(cast.alice, cast.artist) for _ in range(3)]
    for number in ({}, {"number": "2"}, {"number": "x"}):
        page = act(browser, "run_now", tasks, **number).content.decode()
        assert "Type the number of tasks, 3" in page
        assert not RunRequest.objects.exists()
    act(browser, "run_now", tasks, number="3")
    assert RunRequest.objects.count() == 3


def test_more_than_a_hundred_tasks_are_never_run_at_once(browser: Client, cast: Cast, trigger: Standin) -> None:
    tasks = [make_task(cast.alice, cast.artist) for _ in range(MAX_AT_ONCE + 1)]
    page = act(browser, "run_now", tasks, number="101").content.decode()
    assert "Nothing was started" in page
    assert not RunRequest.objects.exists()
