"""Every curl example of the documents works against the demo."""

import argparse
import re
import shlex
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.demo.test_demo import Demo
from tests.services import free_port

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "api.md")
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[str]:
    """Each curl command, with the variable KEY replaced by its value."""
    for document in DOCUMENTS:
        variables: dict[str, str] = {}
        for block in BLOCK.findall(document.read_text()):
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
    parser.add_argument("-X", dest="method", default="GET")
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


def test_every_curl_example_of_the_documents_is_answered_with_200(tmp_path: Path) -> None:
    commands = list(examples())
    assert len(commands) >= 11
    with Demo(tmp_path, free_port()) as demo:
        for command in commands:
            with urllib.request.urlopen(as_request(command, demo.port), timeout=30) as response:  # noqa: S310
                assert response.status == 200, command
