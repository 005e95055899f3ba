"""Execution of programs of the machine in a network namespace."""

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
    """Runs programs in the namespace in which this object was created, and keeps it alive."""

    def __init__(self) -> None:
        self._netns = open_namespace("net")

    def run(self, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return self.inside(
            lambda: subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        )

    def inside(self, work: Callable[[], T]) -> T:
        """Call a function in the namespace."""
        return call_inside(self._netns, work)

    def close(self) -> None:
        os.close(self._netns)


def call_inside(netns: int, work: Callable[[], T]) -> T:
    """Call a function in a network namespace, in a thread of its own.

    The thread ends afterwards, because an ordinary user cannot return to its former namespace.
    """

    def enter() -> T:
        setns(netns, CLONE_NEWNET)
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter).result()


def require_program(program: str, hint: str) -> None:
    """Raise RequirementError if a program is missing."""
    if shutil.which(program) is None:
        raise RequirementError(f"the program {program} is not installed; {hint}")
