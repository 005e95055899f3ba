"""Programs that run in the network namespaces of a lab until a comparison is complete."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

STOP_S = 5.0
"""Time for a program to end after SIGTERM, in seconds."""


class Processes:
    """Context in which programs run; they end with it. Their output is in files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(
        self,
        name: str,
        place: Mapping[str, Any],
        *command: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start a program in the network namespace of a place of `inspect`.

        nsenter executes the program in its own process, so that the signals arrive there.
        """
        with open(self.log(name), "wb") as log:
            process = subprocess.Popen(
                ("nsenter", f"--net={place['netns']}", *command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
            )
        self._stack.callback(_stop, process)
        self._started[name] = process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def check(self) -> None:
        """Raise AssertionError with the end of the output of a program that has ended."""
        for name, process in self._started.items():
            if process.poll() is not None:
                end = "\n".join(self.log(name).read_text().splitlines()[-10:])
                raise AssertionError(f"{name} ended with {process.returncode}:\n{end}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
