"""Queries of the models that must stay cheap, whatever the number of tasks."""

from django.db import connection

from tasks.models import Task
from tests.cast import Cast, make_task


def test_pending_tasks_are_found_by_their_index_among_many_settled_ones(cast: Cast) -> None:
    """PostgreSQL took nearly every row for pending where two columns were compared, and read the whole table."""
    one = make_task(cast.alice, cast.artist, synced_generation=0)
    fields = {"title": "t", "prompt": "p", "schedule": "0 9 * * *", "synced_generation": 1}
    many = [Task(account=cast.alice, artist_account=cast.artist, **fields) for _ in range(3_000)]
    Task.objects.bulk_create(many, batch_size=500)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tasks_task")
    for pending in (Task.objects.unsettled(), Task.objects.unsettled().order_by("updated_at", "pk")[:20]):
        assert [task.pk for task in pending] == [one.pk]
        assert "task_unsettled" in pending.explain()
