"""A day's work with the client that openapi-python-client makes of docs/openapi.json."""

import os
from uuid import UUID

from recoup_tasks_client import AuthenticatedClient
from recoup_tasks_client.api.accounts import get_account, get_account_id
from recoup_tasks_client.api.artists import list_artists
from recoup_tasks_client.api.keys import create_key, delete_key, list_keys
from recoup_tasks_client.api.tasks import (
    create_task,
    delete_task,
    list_or_retrieve_runs,
    list_task_events,
    list_tasks,
    start_run,
    update_task,
)
from recoup_tasks_client.models import (
    CreateKeyRequest,
    CreateTaskRequest,
    DeleteKeyRequest,
    DeleteTaskRequest,
    StartRunRequest,
    UpdateTaskRequest,
)

client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["KEY"], raise_on_unexpected_status=True)
account_id = get_account_id.sync(client=client).account_id
print("who am I:", get_account.sync(account_id, client=client).account.name)
artists = list_artists.sync(client=client).artists
artist = next(one for one in artists if one.name == "Mira Solène")
print("my artists:", ", ".join(sorted(one.name for one in artists)))
body = CreateTaskRequest(title="Fan letter", prompt="Write it.", schedule="0 9 * * 1", artist_account_id=artist.id)
task = create_task.sync(client=client, body=body).tasks[0]
print("create:", task.title, "for", task.artist_name)
print("list:", task.id in [one.id for one in list_tasks.sync(client=client, enabled=True).tasks])
paused = update_task.sync(client=client, body=UpdateTaskRequest(id=task.id, enabled=False)).tasks[0]
print("pause: enabled is", paused.enabled, "and", len(paused.upcoming), "times are left")
run = start_run.sync(client=client, body=StartRunRequest(id=task.id)).runs[0]
print("run now, read the run:", list_or_retrieve_runs.sync(client=client, run_id=run.id).runs[0].id == run.id)
runs = list_or_retrieve_runs.sync(client=client, limit=100).runs
outputs = [list_or_retrieve_runs.sync(client=client, run_id=one.id).runs[0].output for one in runs[:30]]
print("outputs:", ", ".join(sorted({type(output).__name__ for output in outputs})))
print("delete:", delete_task.sync(client=client, body=DeleteTaskRequest(id=task.id)).status)
events = list_task_events.sync(client=client, id=UUID(str(task.id))).events
print("who changed it:", ", ".join(event.action for event in reversed(events)))
key = create_key.sync(client=client, body=CreateKeyRequest(key_name="Agent"))
print("my keys:", key.id in [one.id for one in list_keys.sync(client=client).keys])
print("delete a key:", delete_key.sync(client=client, body=DeleteKeyRequest(id=key.id)).status)
