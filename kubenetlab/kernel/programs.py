"""Programs of the machine, started in a namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from kubenetlab.errors import RequirementError
from kubenetlab.kernel.syscalls import CLONE_NEWNET, open_namespace, setns


class Programs:
    """Starts them in the namespace in which this object was made, and keeps that alive."""

    def __init__(self) -> None:
        self._netns = open_namespace("net")

    def run(self, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        """A child goes in: from a thread's own namespace there is no way back for who may not enter its own again."""
        netns = self._netns
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, preexec_fn=lambda: setns(netns, CLONE_NEWNET)
        )

    def close(self) -> None:
        os.close(self._netns)


def require(program: str, hint: str) -> None:
    """Raises RequirementError where a program is missing."""
    if shutil.which(program) is None:
        raise RequirementError(f"the program {program} is not here; {hint}")
