"""The programs of BPF in the package are what their sources say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = "14.0.6"
"""Another one may give other bytes."""


def compiler() -> str:
    if not (
        shutil.which("clang-14")
        and shutil.which("llvm-strip-14")
        and Path("/usr/include/bpf/bpf_helpers.h").exists()
    ):
        return ""
    return subprocess.run(
        ["clang-14", "--version"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(
    f"version {COMPILER}" not in compiler(),
    reason=f"they are made by clang-14 {COMPILER}, llvm-14 and libbpf-dev (apt-get install)",
)
def test_the_sources_give_the_objects(tmp_path: Path) -> None:
    """Byte by byte; after a change of the sources: scripts/bpf."""
    subprocess.run(
        ["scripts/bpf", tmp_path],
        cwd=ROOT,
        check=True,
        env={**os.environ, "KUBENETLAB_VENV": sys.prefix},
    )
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made
    assert made == {
        path.name: path.read_bytes() for path in (ROOT / "kubenetlab" / "bpf").glob("*.o")
    }
