"""Commands of an ordinary user of the machine.

The user has another uid, no capability, and a home and a run directory of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.labs.lab import CommandResult, Lab, command_result
from tests.patience import patiently

ROOT = Path(__file__).parents[2]
NOBODY, OTHER_USER = 65534, 65533
"""Uids of two users, who need no account."""
NO_PYTHON_FOR_USERS = (
    "no Python that an ordinary user can run has the package's dependencies; "
    "apt-get install python3"
)
"""Reason to skip a test of an ordinary user."""
_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Search path of Debian's login shells for users other than root (/etc/profile)."""
_IMPORTS = "import msgspec, typer, yaml, kubenetlab.cli.app"


class User:
    """An ordinary user and the user's directories."""

    def __init__(self, uid: int, home: Path, etc: Path | None = None) -> None:
        """Set up a user without creating it.

        etc: folder of files that replace those of the machine's /etc for this user.
        """
        self.uid = uid
        self._etc = etc
        self.home = home
        self.run_directory = home / "run"

    def run(
        self,
        *words: str,
        stdin: str | None = None,
        status: int | None = 0,
        environment: dict[str, str] | None = None,
    ) -> CommandResult:
        """Run a kubenetlab command as this user."""
        return command_result(
            self.run_python("-m", "kubenetlab", *words, stdin=stdin, environment=environment),
            status,
        )

    def shell(self, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a shell command in a folder; `kubenetlab` in it is this checkout's."""
        python, variables = interpreter(self.uid)
        installed = self.home / "bin" / "kubenetlab"
        if not installed.exists():
            installed.parent.mkdir()
            installed.write_text(f'#!/bin/sh\nexec {python} -m kubenetlab "$@"\n')
            installed.chmod(0o755)
        environment = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.run_directory),
            **variables,
        }
        environment["PATH"] = f"{installed.parent}:{_PATH}"
        return _as_user(self.uid, ["sh", "-c", command], environment, None, folder=folder)

    def run_python(
        self, *words: str, stdin: str | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python as this user."""
        python, variables = interpreter(self.uid)
        variables_of_user = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.run_directory),
            **variables,
            **(environment or {}),
        }
        return _as_user(self.uid, [python, *words], variables_of_user, stdin, self._etc)


class UsersLab(Lab):
    """A lab of an ordinary user."""

    def __init__(self, name: str, user: User) -> None:
        super().__init__(name)
        self.user = user

    @property
    def directory(self) -> Path:
        return self.user.run_directory / "kubenetlab" / self.name

    @property
    def inspected(self) -> Any:
        return self.run("inspect", "-o", "json").json

    def run(self, *words: str, stdin: str | None = None, status: int | None = 0) -> CommandResult:
        command, *rest = words
        return self.user.run(command, "--lab", self.name, *rest, stdin=stdin, status=status)


@contextmanager
def user(uid: int) -> Iterator[User]:
    """Yield a user with a home below /tmp that only the user can access."""
    home = Path(tempfile.mkdtemp(prefix="knl-"))
    try:
        (home / "run").mkdir(mode=0o700)
        for path in (home, home / "run"):
            os.chown(path, uid, uid)
        yield User(uid, home)
    finally:
        shutil.rmtree(home)


@cache
def interpreter(uid: int) -> tuple[str, dict[str, str]]:
    """Return a Python that this user can run, and the variables with which it finds the package.

    Return ("", {}) if there is none.
    """
    variables = {
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for python in (
        sys.executable,
        f"/usr/bin/python3.{sys.version_info.minor}",
        "/usr/bin/python3",
    ):
        try:
            if _as_user(uid, [python, "-c", _IMPORTS], variables, None).returncode == 0:
                return python, variables
        except OSError:
            continue
    return "", {}


def _as_user(
    uid: int,
    command: list[str],
    variables: dict[str, str],
    stdin: str | None,
    etc: Path | None = None,
    folder: Path = Path("/"),
) -> subprocess.CompletedProcess[str]:
    is_direct = etc is None  # otherwise root has to mount /etc first
    script = (
        f"mount -t overlay -o lowerdir={etc}:/etc none /etc && "
        f'exec setpriv --reuid={uid} --regid={uid} --clear-groups "$@"'
    )
    return subprocess.run(
        command if is_direct else ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=patiently(90),
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        user=uid if is_direct else None,
        group=uid if is_direct else None,
        extra_groups=[] if is_direct else None,
    )
