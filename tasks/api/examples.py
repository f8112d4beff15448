"""Answers that the demo gave, as examples for the docs; a test validates them against the schema."""

from typing import Any

# In the demo both are Alice's.
TASK_ID, ARTIST_ID = "00231fe9-010a-5b70-90c5-15fd44ba560f", "7a48e9c7-3e14-5a29-a211-498a6743b8fa"
NEW_TASK: dict[str, Any] = {
    "title": "New release radar",
    "prompt": "List this week's new releases that share listeners with Mira Solène, with one line on each.",
    "schedule": "0 9 * * FRI",
    "timezone": "Europe/London",
    "artist_account_id": ARTIST_ID,
}
SCHEDULED_RUN: dict[str, Any] = {
    "id": "run_c0aa26a2175fb27f4450bf99e",
    "status": "COMPLETED",
    "taskIdentifier": "customer-prompt-task",
    "version": "20261120.1",
    "createdAt": "2026-11-20T09:00:00.000Z",
    "startedAt": "2026-11-20T09:00:02.000Z",
    "updatedAt": "2026-11-20T09:00:44.000Z",
    "finishedAt": "2026-11-20T09:00:44.000Z",
    "isTest": False,
    "env": {"id": "cmstandin0000000000000001", "name": "prod"},
    "tags": [],
    "costInCents": 0.142,
    "baseCostInCents": 0.0025,
    "durationMs": 42000,
    "depth": 0,
}
TASKS: dict[str, Any] = {
    "status": "success",
    "tasks": [
        {
            "id": "00231fe9-010a-5b70-90c5-15fd44ba560f",
            "title": "New release radar",
            "prompt": "List this week's new releases that share listeners with Mira Solène, with one line on each.",
            "schedule": "0 9 * * FRI",
            "timezone": "Europe/London",
            "account_id": "f01b6f46-2367-5b77-b640-f7bffcf5ba36",
            "artist_account_id": "7a48e9c7-3e14-5a29-a211-498a6743b8fa",
            "artist_name": "Mira Solène",
            "enabled": True,
            "model": None,
            "owner_email": "alice@northlight.example",
            "created_at": "2026-04-27T00:44:09.026Z",
            "updated_at": "2026-11-22T00:44:09.053Z",
            "trigger_schedule_id": "sched_2c004389ad5db65f582ab",
            "sync_status": "in_sync",
            "recent_runs": [SCHEDULED_RUN],
            "runs_status": "fresh",
            "runs_as_of": "2026-11-22T01:07:21.589Z",
            "trigger_lookup_failed": False,
            "upcoming": ["2026-11-27T09:00:00.000Z", "2026-12-04T09:00:00.000Z"],
        }
    ],
}
FINISHED_RUN: dict[str, Any] = {
    "status": "success",
    "runs": [
        {
            "id": "run_ca4312bbb4775326362598e6c",
            "taskIdentifier": "create-content",
            "version": "20261120.1",
            "status": "COMPLETED",
            "createdAt": "2026-11-22T00:44:09.026Z",
            "startedAt": "2026-11-22T00:44:29.026Z",
            "updatedAt": "2026-11-22T00:46:09.026Z",
            "finishedAt": "2026-11-22T00:46:09.026Z",
            "costInCents": 0.338,
            "baseCostInCents": 0.0025,
            "durationMs": 100000,
            "isTest": False,
            "depth": 0,
            "tags": ["account:f01b6f46-2367-5b77-b640-f7bffcf5ba36"],
            "triggerFunction": "trigger",
            "output": {
                "videoSourceUrl": "https://media.example/videos/paper-lanterns.mp4",
                "imageUrl": "https://media.example/images/paper-lanterns.jpg",
                "captionText": "we kept the lights on",
                "template": "artist-caption-bedroom",
                "lipsync": False,
            },
            "attempts": [],
            "relatedRuns": {"children": []},
        }
    ],
    "runs_status": "fresh",
    "runs_as_of": "2026-11-22T01:07:22.104Z",
}
RUNS: dict[str, Any] = {
    "status": "success",
    "runs": [SCHEDULED_RUN],
    "runs_status": "stale",
    "runs_as_of": "2026-11-22T01:07:21.589Z",
}
STARTED_RUN: dict[str, Any] = {
    "status": "success",
    "runs": [
        {
            "id": "run_cmwr1dejs0000ak7dkv9rxszi",
            "status": "QUEUED",
            "taskIdentifier": "customer-prompt-task",
            "createdAt": "2026-11-22T01:07:21.589Z",
            "updatedAt": "2026-11-22T01:07:21.589Z",
            "tags": [
                "account:f01b6f46-2367-5b77-b640-f7bffcf5ba36",
                "task:00231fe9-010a-5b70-90c5-15fd44ba560f",
            ],
        }
    ],
    "runs_status": "fresh",
    "runs_as_of": "2026-11-22T01:07:21.702Z",
}
PREVIEW: dict[str, Any] = {
    "status": "success",
    "schedule": "0 9 * * 1-5",
    "timezone": "Europe/Paris",
    "description": "At 09:00 AM, Monday through Friday",
    "upcoming": [
        {"utc": "2026-11-23T08:00:00.000Z", "local": "2026-11-23T09:00:00+01:00"},
        {"utc": "2026-11-24T08:00:00.000Z", "local": "2026-11-24T09:00:00+01:00"},
    ],
    "warnings": [],
}
EVENTS: dict[str, Any] = {
    "status": "success",
    "events": [
        {
            "at": "2026-11-22T01:07:21.589Z",
            "action": "updated",
            "actor_kind": "account",
            "actor_account_id": "f01b6f46-2367-5b77-b640-f7bffcf5ba36",
            "via": "api",
            "before": {"enabled": True},
            "after": {"enabled": False},
            "reason": "",
        }
    ],
    "next_cursor": None,
}
