"""The examples of docs/api.md: each one is run as it stands on the page.

An example whose first line is a comment with a file name is a file of that name; a file of tests is
run by pytest. All others are programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kubenetlab.lab.client import running_labs
from tests.patience import patiently

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, tmp_path: Path) -> None:
    """In the directory of the checkout, where the manifests of the examples are."""
    text = EXAMPLES[number]
    named = re.match(r"# (\S+\.py)\n", text)
    file = tmp_path / (named[1] if named else "example.py")
    file.write_text(text)
    runner = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    is_test = file.name.startswith("test_")
    before = set(running_labs())
    done = subprocess.run(
        [sys.executable, *(runner if is_test else []), str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=patiently(120),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    assert {lab for lab in set(running_labs()) - before if lab.startswith("lab-")} == set()


def test_there_are_examples_of_both_kinds() -> None:
    assert any(text.startswith("# test_") for text in EXAMPLES)
    assert any(not text.startswith("# ") for text in EXAMPLES)
