"""A day's work with the client that openapi-generator makes of docs/openapi.json."""

import os

import openapi_client as made

configuration = made.Configuration(host=os.environ["URL"], api_key={"apiKeyAuth": os.environ["KEY"]})
with made.ApiClient(configuration) as client:
    accounts, artists_api, tasks = made.AccountsApi(client), made.ArtistsApi(client), made.TasksApi(client)
    account_id = accounts.get_account_id().account_id
    print("who am I:", accounts.get_account(account_id).account.name)
    artists = artists_api.list_artists().artists
    artist = next(one for one in artists if one.name == "Mira Solène")
    print("my artists:", ", ".join(sorted(one.name for one in artists)))
    body = {"title": "Fan letter", "prompt": "Write it.", "schedule": "0 9 * * 1", "artist_account_id": artist.id}
    task = tasks.create_task(made.CreateTaskRequest(**body)).tasks[0]
    print("create:", task.title, "for", task.artist_name)
    print("list:", task.id in [one.id for one in tasks.list_tasks(enabled=True).tasks])
    paused = tasks.update_task(made.UpdateTaskRequest(id=task.id, enabled=False)).tasks[0]
    print("pause: enabled is", paused.enabled, "and", len(paused.upcoming), "times are left")
    run = tasks.start_run(made.StartRunRequest(id=task.id)).runs[0]
    print("run now, read the run:", tasks.list_or_retrieve_runs(run_id=run.id).runs[0].id == run.id)
    runs = tasks.list_or_retrieve_runs(limit=100).runs
    outputs = [tasks.list_or_retrieve_runs(run_id=one.id).runs[0].output for one in runs[:30]]
    print("outputs:", ", ".join(sorted({type(one and one.actual_instance).__name__ for one in outputs})))
    print("delete:", tasks.delete_task(delete_task_request=made.DeleteTaskRequest(id=task.id)).status)
