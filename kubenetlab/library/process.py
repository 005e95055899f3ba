"""Commands in processes of their own: their output, their exit status and their error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from kubenetlab import errors
from kubenetlab.api.json_types import JsonObject
from kubenetlab.errors import KubenetlabError, LabError, ManifestError, Problem, UsageError

_NOT_WARNINGS: Final = ("note: ", "next: ")
"""Beginnings of messages that are no warnings."""
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from kubenetlab.library.command import main; main()"
)
"""Program of the process. It finds the same modules as this one, wherever they are."""


class Completed(Struct, frozen=True):
    """Command that has ended."""

    arguments: tuple[str, ...]
    status: int
    """Exit status; negative for the number of a signal."""
    output: str
    """Standard output."""
    messages: str
    """Standard error: warnings and other messages."""

    @property
    def warnings(self) -> str:
        """Messages without notes, and without the hint which command to run next."""
        lines = self.messages.splitlines()
        return "\n".join(line for line in lines if not line.startswith(_NOT_WARNINGS))

    def require(self, *statuses: int) -> Completed:
        """Return the command if it has ended with one of some statuses.

        Raises UsageError for status 2, and LabError for any other.
        """
        if self.status in statuses:
            return self
        type_ = UsageError if self.status == UsageError.exit_status else LabError
        reason = self.warnings or self.output.strip()
        raise type_(reason or f"{' '.join(self.arguments)}: exit status {self.status}")


def run_command(
    arguments: Sequence[str], *, stdin: str = "", timeout_s: float | None = None
) -> Completed:
    """Run `kubenetlab ARGUMENTS…`.

    stdin: standard input of the command.
    timeout_s: time after which the process is killed, in seconds; None for no limit.
    Raises the KubenetlabError that the command reports, and LabError after the timeout.
    """
    file = os.memfd_create("kubenetlab-error")
    line = [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(file), *arguments]
    try:
        done = subprocess.run(
            line,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            pass_fds=[file],
        )
        error = os.pread(file, os.fstat(file).st_size, 0)
    except subprocess.TimeoutExpired:
        raise LabError(
            f"kubenetlab {' '.join(arguments)} has not ended after {timeout_s:g} s"
        ) from None
    finally:
        os.close(file)
    if error:
        raise read_error(json.loads(error))
    return Completed(tuple(arguments), done.returncode, done.stdout, done.stderr)


def read_error(record: JsonObject) -> KubenetlabError:
    """Return the error that the process wrote (command.py)."""
    if "problems" in record:
        return ManifestError(msgspec.convert(record["problems"], list[Problem]))
    type_: type[KubenetlabError] = getattr(errors, record["type"])
    return type_(record["message"])
