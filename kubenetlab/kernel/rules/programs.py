"""Programs of the machine, started in a namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kubenetlab.errors import RequirementError
from kubenetlab.kernel.syscalls import CLONE_NEWNET, open_namespace, setns

T = TypeVar("T")


class ProgramRunner:
    """Starts them in the namespace in which this object was made, and keeps that alive."""

    def __init__(self) -> None:
        self._netns = open_namespace("net")

    def run(self, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return self.inside(
            lambda: subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        )

    def inside(self, work: Callable[[], T]) -> T:
        """Does something in the namespace, in a thread that ends with it: there is no way back for who may not enter its own again."""

        def enter() -> T:
            setns(self._netns, CLONE_NEWNET)
            return work()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def close(self) -> None:
        os.close(self._netns)


def require(program: str, hint: str) -> None:
    """Raises RequirementError where a program is missing."""
    if shutil.which(program) is None:
        raise RequirementError(f"the program {program} is not here; {hint}")
