"""Each example of docs/testing-your-manifests.md runs without changes, in one folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.unit.library.test_pytest_plugin import OPTIONS, ROOT, pytest_run

PAGE = (ROOT / "docs" / "testing-your-manifests.md").read_text()
EXAMPLE = re.compile(r"^```(?:yaml|python)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {match[1]: match[2] for match in EXAMPLE.finditer(PAGE)}
"""Name of a file → its text. The name is a comment in the first line."""
TOOL = """#!/bin/sh
test "$*" = "{arguments}" || {{ echo "unexpected: $*" >&2; exit 1; }}
cat {manifests}
"""
TOOLS = {"helm": "template shop ./chart --set replicas=2", "kustomize": "build overlays/test"}
"""Programs that need not be installed: they print the manifests of the page."""


def test_all_examples_of_the_page_run(tmp_path: Path) -> None:
    assert len(FILES) == 6
    folder, programs = tmp_path / "project", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name, arguments in TOOLS.items():
        program = programs / name
        program.write_text(TOOL.format(arguments=arguments, manifests=folder / "test_shop.yaml"))
        program.chmod(0o755)
    done = pytest_run(folder, *OPTIONS, PATH=f"{programs}:{os.environ['PATH']}")
    assert "11 passed" in done.stdout, done.stdout
    assert "Warning" not in done.stdout
