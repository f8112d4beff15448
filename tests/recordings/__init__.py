"""Recorded exchanges with a real Trigger.dev server. Each JSON file holds one request and its response."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def recording(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def names(prefix: str) -> list[str]:
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.json"))


def target(name: str) -> tuple[str, str]:
    """The (method, target) of the recorded request."""
    method, path, _ = recording(name)["request"]["line"].split(" ")
    return method, path


def reply(name: str) -> tuple[int, dict[str, str], bytes]:
    """The (status, headers, body) of the recorded response."""
    response = recording(name)["response"]
    body = response["body_text"] if response["body"] is None else json.dumps(response["body"])
    return response["status"], {key.lower(): value for key, value in response["headers"]}, (body or "").encode()
