"""scripts/demo, the first command of the README."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.labs import users
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY, User

ROOT = Path(__file__).parents[2]


def _environment(user: User) -> Path:
    """Create a folder that scripts/prepare.sh accepts as an installed virtual environment."""
    python, variables = users.interpreter(NOBODY)
    folder = user.home / "venv"
    (folder / "bin").mkdir(parents=True)
    settings = "".join(f"export {name}={value}\n" for name, value in variables.items())
    for name, command in (
        ("kubenetlab", f'exec {python} -m kubenetlab "$@"'),
        ("python", "exit 0"),
    ):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{settings}{command}\n")
        (folder / "bin" / name).chmod(0o755)
    versions = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()
    ).hexdigest()
    (folder / "installed").write_text(f". {versions}  -\n")
    return folder


def test_the_demo_needs_neither_root_nor_sudo() -> None:
    """An ordinary user can run it to its end; it prints no hints, and no lab is left."""
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    with users.user(NOBODY) as user:
        result = user.shell(f"KUBENETLAB_VENV={_environment(user)} scripts/demo", ROOT)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "15 of 15 pods ready" in result.stdout
        assert "next: " not in result.stdout + result.stderr
        assert "all as Kubernetes promises" in result.stdout
        assert f"$ source {user.home}/venv/bin/activate" in result.stdout
        assert user.run("list").out == "no lab is up\n"
