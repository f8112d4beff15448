"""The documents agree with the code, where a program can tell."""

import re
import tomllib
from pathlib import Path

import pytest

from recoup import settings

ROOT = Path(__file__).parent.parent
DOCS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
}


def test_the_table_of_settings_has_every_setting_and_no_other() -> None:
    table = DOCS["docs/operations.md"].split("## Settings")[1].split("\n## ")[0]
    names = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    documented = {name for cell in names for name in re.findall(r"`([A-Z_]+)`", cell)}
    read = set(re.findall(r'env\.\w+\("([A-Z_]+)"', (ROOT / "recoup" / "settings.py").read_text()))
    assert documented == read


@pytest.mark.parametrize("document", DOCS)
def test_every_path_in_a_document_exists(document: str) -> None:
    paths = re.findall(r"`((?:core|accounts|tasks|demo|recoup|tests|docs|bench)/[\w/.]*)`", DOCS[document])
    links = re.findall(r"\]\((?!http)([\w/.]+)\)", DOCS[document])
    folder = (ROOT / document).parent
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("document", DOCS)
def test_every_make_target_in_a_document_exists(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^)make ([a-z][a-z-]+)", DOCS[document], re.MULTILINE)
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_the_version_is_the_newest_of_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.findall(r"^## ([\d.]+), \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == version == settings.SPECTACULAR_SETTINGS["VERSION"]


def test_the_readme_is_short() -> None:
    assert len(DOCS["README.md"].splitlines()) <= 150
