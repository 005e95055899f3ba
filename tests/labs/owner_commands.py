"""Commands of a lab's owner, root or an ordinary user, in processes of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.labs import users
from tests.labs.lab import INSTALLED, Lab
from tests.labs.users import NOBODY, UsersLab

ROOT = Path(__file__).parents[2]


class OwnerCommand(Struct, frozen=True):
    """A command line with its environment and its user."""

    words: list[str]
    environment: dict[str, str]
    user: int | None
    """None for root, who runs the tests."""

    def run(
        self, environment: dict[str, str] | None = None, *, status: int = 0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the command with additional variables and options of `subprocess.run`.

        status: exit status with which the command must end.
        """
        result = subprocess.run(
            self.words,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            user=self.user,
            group=self.user,
            extra_groups=self._groups,
            check=False,
            **options,
        )
        assert result.returncode == status, result.stderr
        return result

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.words,
            env=self.environment,
            user=self.user,
            group=self.user,
            extra_groups=self._groups,
        )

    def execute(self) -> None:
        """Replace this process, the child of a fork with a terminal, by the command."""
        os.chdir("/")
        if self.user is not None:
            os.fchown(0, self.user, -1)
            os.setgroups([])
            os.setgid(self.user)
            os.setuid(self.user)
        os.execve(self.words[0], self.words, self.environment)

    @property
    def _groups(self) -> list[int] | None:
        return None if self.user is None else []


def owner_command(lab: Lab, command: str, *words: str) -> OwnerCommand:
    """Return a command for a lab as its owner types it."""
    words = ("-m", "kubenetlab", command, "--lab", lab.name, *words)
    if not isinstance(lab, UsersLab):
        return OwnerCommand([*INSTALLED[:1], *words], {**os.environ, "PYTHONPATH": str(ROOT)}, None)
    python, variables = users.interpreter(NOBODY)
    own = {
        "HOME": str(lab.user.home),
        "XDG_RUNTIME_DIR": str(lab.user.run_directory),
        "PATH": os.environ["PATH"],
    }
    return OwnerCommand([python, *words], {**own, **variables}, NOBODY)
