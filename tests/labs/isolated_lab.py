"""A lab whose pod has variables that make programs run code, for tests of `exec` and `shell`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.clusters import pod
from tests.conftest import LAB_PREFIX
from tests.labs import users
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.users import NO_PYTHON_FOR_USERS, NOBODY, UsersLab

OWNERS: Final = ("root", "user")
"""Owners of a lab: root, or an ordinary user."""


def machine_directory() -> Iterator[Path]:
    """Yield a directory of the machine that is visible inside and writable for every user."""
    directory = Path(tempfile.mkdtemp(prefix="knl-", dir="/opt"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def isolated_lab(owner: str, marker: Path) -> Iterator[Lab]:
    """Yield a lab of an owner with the pods of `manifest(marker)`.

    Skips the test if no ordinary user of this machine can run the package.
    """
    if owner == "root":
        for lab in new_lab():
            lab.up(manifest(marker))
            yield lab
        return
    if not users.interpreter(NOBODY)[0]:
        pytest.skip(NO_PYTHON_FOR_USERS)
    with users.user(NOBODY) as user:
        users_lab = UsersLab(f"{LAB_PREFIX}i", user)
        try:
            users_lab.up(manifest(marker))
            yield users_lab
        finally:
            users_lab.down()


def manifest(marker: Path) -> str:
    """Return two pods, one of which has variables that make programs run code.

    bash, Python and the dynamic linker do so before they begin.
    """
    variables = {
        "BASH_ENV": f"$(touch {marker}/bash-env)/dev/null",
        "PROMPT_COMMAND": f"touch {marker}/prompt-command; echo prompted",
        "LD_PRELOAD": f"{marker}/library.so",
        "PYTHONSTARTUP": f"{marker}/startup.py",
        "PATH": f"{marker}/bin:/usr/bin:/bin",
        "GREETING": "hello",
    }
    entries = ", ".join(
        f"{{name: {name}, value: {json.dumps(value)}}}" for name, value in variables.items()
    )
    return pod("client") + pod("hostile", container=f", env: [{entries}]")
