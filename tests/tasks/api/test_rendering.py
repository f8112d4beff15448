"""The hand-written JSON rendering, which is fast, has the same fields and values as the serializers of the schema."""

import json

from django.utils import timezone

from tasks.api.rendering import json_response, runs_body, tasks_body
from tasks.api.serializers import TaskRunListResponseSerializer, TaskSerializer, TasksResponseSerializer
from tasks.models import Task
from tasks.runs.due import RunsStatus
from tasks.runs.reading import enrich
from tests.cast import Cast, make_task


def test_a_rendered_task_equals_the_serializer_in_fields_order_and_values(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, title='ü \u2028 "quoted"', model="gpt", enabled=None)
    (enriched,) = enrich(Task.objects.to_show(), now=timezone.now(), deadline=0.0)
    body = json.loads(json_response(tasks_body([enriched])).content)
    (task,) = body["tasks"]
    serializer = TaskSerializer()
    required = set(TasksResponseSerializer().fields) - {"error", "next_cursor", "warnings"}
    assert (list(task), set(body)) == (list(serializer.fields), required)
    serializer.fields.pop("recent_runs")  # cached as bytes
    serialized = json.loads(json.dumps(serializer.to_representation(enriched), default=str))
    assert {name: task[name] for name in serialized} == serialized


def test_a_rendered_list_of_runs_has_the_fields_of_the_serializer(cast: Cast) -> None:
    body = json.loads(json_response(runs_body([], cast.alice.pk, RunsStatus.STALE, None, next_cursor=None)).content)
    assert list(body) == list(TaskRunListResponseSerializer().fields)
    assert body == {"status": "success", "runs": [], "runs_status": "stale", "runs_as_of": None, "next_cursor": None}
