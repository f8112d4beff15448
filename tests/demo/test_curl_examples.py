"""Every curl example of the documents, and every request of the docs page, works against the demo."""

import argparse
import json
import re
import shlex
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit

from accounts.credentials.api_keys import demo_key
from core.schema import document
from tests.demo.test_demo import Demo
from tests.services import free_port

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "api.md")
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[str]:
    """Each curl command, with the variable KEY replaced by its value."""
    for source in DOCUMENTS:
        variables: dict[str, str] = {}
        for block in BLOCK.findall(source.read_text()):
            for name, value in re.findall(r"^([A-Z]+)=(\S+)$", block, re.MULTILINE):
                variables[name] = value
            for command in re.findall(r"^curl .*?(?<!\\)\n(?![ ])", block + "\n", re.MULTILINE | re.DOTALL):
                for name, value in variables.items():
                    command = command.replace(f"${name}", value)
                yield command.replace("\\\n", " ")


def as_request(command: str, port: int) -> urllib.request.Request:
    """The request that curl would send."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="data", action="append", default=[])
    parser.add_argument("--data-urlencode", dest="encoded", action="append", default=[])
    parser.add_argument("-G", dest="is_get", action="store_true")
    parser.add_argument("-s", "-i", action="count")
    options = parser.parse_args(shlex.split(command)[1:])
    url = options.url.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    if options.is_get:
        pairs = [tuple(pair.split("=", 1)) for pair in options.encoded + options.data]
        url += "?" + urlencode(pairs, quote_via=quote)
    headers = dict(header.split(": ", 1) for header in options.headers)
    body = "".join(options.data).encode() if options.data and not options.is_get else None
    return urllib.request.Request(url, data=body, headers=headers, method=options.method)  # noqa: S310  our own server


def documented_requests(port: int) -> Iterator[urllib.request.Request]:
    """What the docs page sends for Alice when one presses Execute: the examples of parameters and bodies."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            parameters = {one["name"]: example_of(one) for one in operation.get("parameters", []) if example_of(one)}
            query = urlencode({name: value for name, value in parameters.items() if f"{{{name}}}" not in path})
            contents = operation.get("requestBody", {}).get("content", {})
            bodies = [example["value"] for one in contents.values() for example in one.get("examples", {}).values()]
            url = f"http://127.0.0.1:{port}{path.format(**parameters)}?{query}"
            headers = {"x-api-key": demo_key("alice"), "content-type": "application/json"}
            for body in bodies or [None]:
                data = None if body is None else json.dumps(body).encode()
                yield urllib.request.Request(url, data=data, headers=headers, method=method.upper())


def example_of(parameter: Any) -> str:
    """Of a parameter that must be given: the docs page leaves the others empty."""
    examples = parameter.get("examples", {}) if parameter.get("required") else {}
    return next((str(example["value"]) for example in examples.values()), "")


def test_every_request_of_the_docs_page_is_answered_with_200(tmp_path: Path) -> None:
    with Demo(tmp_path, free_port()) as demo:
        # The task of the examples is deleted last.
        found = sorted(documented_requests(demo.port), key=lambda request: request.get_method() == "DELETE")
        assert len(found) >= 16
        for request in found:
            if (request.get_method(), urlsplit(request.full_url).path) == ("DELETE", "/api/keys"):
                continue  # the id of a key cannot be known before
            assert status_of(request) == 200, (request.get_method(), request.full_url, request.data)


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return int(response.status)
    except HTTPError as error:
        return error.code


def test_every_curl_example_of_the_documents_is_answered_with_200(tmp_path: Path) -> None:
    commands = list(examples())
    assert len(commands) >= 11
    with Demo(tmp_path, free_port()) as demo:
        for command in commands:
            assert status_of(as_request(command, demo.port)) == 200, command
