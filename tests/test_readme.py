"""The README is true where a machine can tell."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_table_and_no_other() -> None:
    table = README.split("## Settings")[1].split("\n## ")[0]
    names = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    documented = {name for cell in names for name in re.findall(r"`([A-Z_]+)`", cell)}
    read = set(re.findall(r'env\.\w+\("([A-Z_]+)"', (ROOT / "recoup" / "settings.py").read_text()))
    assert documented == read


def test_every_room_it_names_is_there() -> None:
    table = README.split("## Where things are")[1].split("\n## ")[0]
    rooms = re.findall(r"`((?:core|accounts|tasks|demo|recoup|tests)/[\w/.]*)`", table)
    assert len(rooms) > 8
    assert [room for room in rooms if not (ROOT / room).exists()] == []


def test_every_make_target_it_names_is_there() -> None:
    targets = set(re.findall(r"make ([a-z][a-z-]+)", README)) - {"makes"}
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
