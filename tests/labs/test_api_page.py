"""Each example of docs/api.md runs without changes.

An example is a file if its first line is a comment with the file's name; pytest runs a file of
tests. All other examples are programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kubenetlab.lab.client import running_labs
from tests.labs.lab import wait_for
from tests.patience import patiently

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number: int, tmp_path: Path) -> None:
    """It runs in the directory of the checkout, which has the manifests of the examples."""
    text = EXAMPLES[number]
    file_name = re.match(r"# (\S+\.py)\n", text)
    file = tmp_path / (file_name[1] if file_name else "example.py")
    file.write_text(text)
    runner = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    is_test = file.name.startswith("test_")
    before = set(running_labs())
    result = subprocess.run(
        [sys.executable, *(runner if is_test else []), str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=patiently(120),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Warning" not in result.stdout + result.stderr
    new_labs = {lab for lab in set(running_labs()) - before if lab.startswith("lab-")}
    # Other tests make labs with such names, too, and remove them soon.
    wait_for(lambda: not new_labs & set(running_labs()), "the labs of the example to be gone")


def test_the_page_has_examples_of_both_kinds() -> None:
    assert any(text.startswith("# test_") for text in EXAMPLES)
    assert any(not text.startswith("# ") for text in EXAMPLES)
