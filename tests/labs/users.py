"""Commands as an ordinary user of the machine gives them: another uid, no capability, a home and a
run directory of its own.
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

from tests.labs.lab import Lab, Ran, ran
from tests.patience import patiently

ROOT = Path(__file__).parents[2]
NOBODY, SOMEBODY = 65534, 65533
"""Two users; no account is needed to be one."""
_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Search path of Debian's login shells for users other than root (/etc/profile)."""
_IMPORTS = "import msgspec, typer, yaml, kubenetlab.cli.app"


class User:
    """A user and its directories."""

    def __init__(self, uid: int, home: Path, etc: Path | None = None) -> None:
        """`etc` is a folder of files that this user finds in /etc instead of the machine's."""
        self.uid = uid
        self._etc = etc
        self.home = home
        self.run_directory = home / "run"

    def run(
        self,
        *words: str,
        given: str | None = None,
        status: int | None = 0,
        environment: dict[str, str] | None = None,
    ) -> Ran:
        """A kubenetlab command of this user."""
        return ran(
            self.process("-m", "kubenetlab", *words, given=given, environment=environment), status
        )

    def shell(self, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """A command of a login shell in a folder; `kubenetlab` in it is this checkout's."""
        python, variables = interpreter(self.uid)
        installed = self.home / "bin" / "kubenetlab"
        if not installed.exists():
            installed.parent.mkdir()
            installed.write_text(f'#!/bin/sh\nexec {python} -m kubenetlab "$@"\n')
            installed.chmod(0o755)
        own = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.run_directory), **variables}
        own["PATH"] = f"{installed.parent}:{_PATH}"
        return _as_user(self.uid, ["sh", "-c", command], own, None, folder=folder)

    def process(
        self, *words: str, given: str | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Python, as this user."""
        python, variables = interpreter(self.uid)
        own = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.run_directory),
            **variables,
            **(environment or {}),
        }
        return _as_user(self.uid, [python, *words], own, given, self._etc)


class UsersLab(Lab):
    """A lab of an ordinary user."""

    def __init__(self, name: str, user: User) -> None:
        super().__init__(name)
        self.user = user

    @property
    def directory(self) -> Path:
        return self.user.run_directory / "kubenetlab" / self.name

    @property
    def seen(self) -> Any:
        return self.run("inspect", "-o", "json").json

    def run(self, *words: str, given: str | None = None, status: int | None = 0) -> Ran:
        command, *rest = words
        return self.user.run(command, "--lab", self.name, *rest, given=given, status=status)


@contextmanager
def user(uid: int) -> Iterator[User]:
    """A user with a home below /tmp, which is the user's alone; gone afterwards."""
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
    """(a Python that this user can run, what it must be told to find the package); ("", {}) when
    there is none.
    """
    found = {
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for python in (
        sys.executable,
        f"/usr/bin/python3.{sys.version_info.minor}",
        "/usr/bin/python3",
    ):
        try:
            if _as_user(uid, [python, "-c", _IMPORTS], found, None).returncode == 0:
                return python, found
        except OSError:
            continue
    return "", {}


def _as_user(
    uid: int,
    command: list[str],
    variables: dict[str, str],
    given: str | None,
    etc: Path | None = None,
    folder: Path = Path("/"),
) -> subprocess.CompletedProcess[str]:
    is_ours = etc is None  # else root has to mount something first
    script = f'mount -t overlay -o lowerdir={etc}:/etc none /etc && exec setpriv --reuid={uid} --regid={uid} --clear-groups "$@"'
    return subprocess.run(
        command if is_ours else ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=patiently(90),
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        user=uid if is_ours else None,
        group=uid if is_ours else None,
        extra_groups=[] if is_ours else None,
    )
