"""Commands and requests for one lab: what the methods of `Lab` share."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Final

from kubenetlab.api.json_types import JsonObject, JsonValue
from kubenetlab.errors import LabError
from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API
from kubenetlab.library.lab_warning import LabWarning
from kubenetlab.library.process import Completed, run_command
from kubenetlab.library.results import Output, Result, decode_result

_PACKAGE: Final = f"{__name__.partition('.')[0]}."
"""Beginning of the names of the modules of this package."""
_RETRY_INTERVAL_S: Final = 0.005
"""Time between two requests to an agent that restarts, or whose pods terminate, in seconds."""


class LabCommands:
    """Commands of the command line for one lab, and requests to its API."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.client = Client(name, on_warning=_warn)

    def run(
        self, arguments: Sequence[str], stdin: str = "", timeout_s: float | None = None
    ) -> Completed:
        """Run a command, whose name is the first argument, for the lab."""
        # Before the command: groups such as `rollout` pass the option on to their subcommand.
        return run_command(["--lab", self._name, *arguments], stdin=stdin, timeout_s=timeout_s)

    def data(self, arguments: Sequence[str]) -> JsonValue:
        """Return the data that a command prints with `-o json`."""
        return json.loads(self.run([*arguments, "-o", "json"]).require(0).output)

    def typed(self, arguments: Sequence[str], type_: type[Output]) -> Output:
        """Return the data that a command prints with `-o json` as a typed value."""
        return decode_result(self.run([*arguments, "-o", "json"]).require(0).output, type_)

    def result(self, arguments: Sequence[str], type_: type[Result], stdin: str = "") -> Result:
        """Return the typed output of a command, whose exit status 1 says that it is not `ok`."""
        done = self.run([*arguments, "-o", "json"], stdin)
        if not done.output:
            done.require()
        result = decode_result(done.require(0, 1).output, type_)
        if result.ok != (done.status == 0):
            raise LabError(f"{' '.join(done.arguments)}: {done.warnings}")
        return result

    def settle(self, timeout_s: float) -> None:
        """Wait until the pods are ready and the kernel is as planned. Raises LabError."""
        deadline = time.monotonic() + timeout_s
        state: JsonObject = {"settled": False}
        while not state["settled"]:
            left_s = max(0.0, deadline - time.monotonic())
            for line in self.client.stream(f"{LAB_API}/settled", timeout=str(left_s)):
                state = line
            if not state["settled"] and not left_s:
                break
            if not state["settled"]:
                time.sleep(_RETRY_INTERVAL_S)  # the agent has ended, and its successor starts
        problems = [f"{entry['pod']}: {entry['reason']}" for entry in state.get("stuck", [])]
        if not state["settled"]:
            waiting = [f"{pod}: still waiting" for pod in state.get("waiting", [])]
            problems = problems + waiting or ["the lab is still changing"]
            problems.append(f"not settled after {timeout_s:g} s")
        if problems:
            raise LabError(f"lab {self._name} is not ready: {'; '.join(problems)}")

    def reset(self, timeout_s: float) -> None:
        """Undo changes since the checkpoint, and wait until the lab has adapted."""
        deadline = time.monotonic() + timeout_s
        is_changed = False
        while True:
            answer: JsonObject = self.client.post(f"{LAB_API}/reset")
            is_changed |= answer["changed"]
            if not answer["pending"]:
                break
            if time.monotonic() >= deadline:
                raise LabError(
                    f"lab {self._name} is not reset after {timeout_s:g} s: still waiting for the "
                    f"deletion of {', '.join(answer['pending'])}"
                )
            time.sleep(_RETRY_INTERVAL_S)
        if is_changed:
            self.settle(max(0.0, deadline - time.monotonic()))


def warn(done: Completed) -> None:
    """Issue the messages of a command that succeeded as one warning."""
    if done.warnings:
        _warn(done.warnings)


def _warn(text: str) -> None:
    """Issue a warning at the line of the program that has called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, LabWarning, stacklevel=level)
