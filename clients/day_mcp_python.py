"""A day's work with the official Python client of MCP."""

import asyncio
import json
import os

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main() -> None:
    http = httpx2.AsyncClient(headers={"x-api-key": os.environ["KEY"]})
    async with Client(streamable_http_client(os.environ["URL"] + "/mcp", http_client=http)) as client:

        async def call(tool, **arguments):
            result = await client.call_tool(tool, arguments)
            text = result.content[0].text
            return f"error: {text}" if result.is_error else json.loads(text)

        print("tools:", len((await client.list_tools()).tools))
        artists = (await call("list_artists"))["artists"]
        artist = next(one for one in artists if one["name"] == "Mira Solène")
        print("my artists:", ", ".join(sorted(one["name"] for one in artists)))
        print("preview:", (await call("preview_schedule", schedule="0 9 * * 1"))["description"])
        new = {"title": "Fan letter", "prompt": "Write it.", "schedule": "0 9 * * 1"}
        task = (await call("create_task", **new, artist_account_id=artist["account_id"]))["tasks"][0]
        print("create:", task["title"], "for", task["artist_name"])
        listed = (await call("list_tasks", limit=100))["tasks"]
        print("list:", task["id"] in [one["id"] for one in listed])
        print("pause: enabled is", (await call("pause_task", id=task["id"]))["tasks"][0]["enabled"])
        run = (await call("run_task_now", id=task["id"]))["runs"][0]
        read = (await call("get_run", runId=run["id"], wait=1))["runs"][0]
        print("run now, read the run:", read["id"] == run["id"])
        print("delete:", (await call("delete_task", id=task["id"]))["status"])
        print("an error:", await call("create_task", title="Fan letter"))


asyncio.run(main())
