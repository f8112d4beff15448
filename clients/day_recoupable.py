"""A day's work with the published Python client."""

import os

from recoupable import APIError, Client

client = Client(api_key=os.environ["KEY"], base_url=os.environ["URL"])
account = client.get_account_id()["accountId"]
print("who am I:", client.request("GET", f"/api/accounts/{account}")["account"]["name"])
artists = client.request("GET", "/api/artists")["artists"]
artist = next(one for one in artists if one["name"] == "Mira Solène")
print("my artists:", ", ".join(sorted(one["name"] for one in artists)))
body = {
    "title": "Fan letter",
    "prompt": "Write it.",
    "schedule": "0 9 * * 1",
    "artist_account_id": artist["account_id"],
}
task = client.request("POST", "/api/tasks", body=body)["tasks"][0]
print("create:", task["title"], "for", task["artist_name"])
listed = client.request("GET", "/api/tasks", query={"enabled": True})["tasks"]
print("list:", task["id"] in [one["id"] for one in listed])
paused = client.request("PATCH", "/api/tasks", body={"id": task["id"], "enabled": False})["tasks"][0]
print("pause: enabled is", paused["enabled"], "and", len(paused["upcoming"]), "times are left")
run = client.request("POST", "/api/tasks/runs", body={"id": task["id"]})["runs"][0]
read = client.request("GET", "/api/tasks/runs", query={"runId": run["id"], "wait": 1})["runs"][0]
print("run now, read the run:", read["id"] == run["id"])
print("delete:", client.request("DELETE", "/api/tasks", body={"id": task["id"]})["status"])
try:
    client.request("GET", "/api/tasks/runs", query={"runId": "run_of_nobody"})
except APIError as error:
    print("an error:", error.status, error.body["error"])
