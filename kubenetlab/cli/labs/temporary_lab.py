"""Labs that a command makes for itself and removes, by kubenetlab commands in child processes.

These processes are in a session of their own, so that Ctrl-C interrupts only this command. It then
kills them, and `down` removes what is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final, NamedTuple, TypeVar

import msgspec

from kubenetlab.errors import KubenetlabError, LabError
from kubenetlab.kernel.syscalls import die_with_parent

Result = TypeVar("Result")

_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from kubenetlab.cli import main; main()"
)
"""Program of the processes. It finds the same modules as this one, wherever they are."""
_WARNING: Final = "warning: "
_NOT_ERRORS: Final = (_WARNING, "note: ", "next: ", "see kubenetlab")
_STOPPED_BY_SIGTERM: Final = 128 + signal.SIGTERM


class Completed(NamedTuple):
    """Command that has ended."""

    status: int
    output: str
    errors: str

    @property
    def reason(self) -> str:
        """Text of its error; of a command that only warns, its warnings. Hints are left out."""
        warnings, others = self._messages
        lines = others or [
            line for line in self.output.splitlines() if line.startswith("not ready")
        ]
        text = "; ".join(line.strip() for line in lines or warnings if line != "error:")
        return text.removeprefix("error: ") or f"exit status {self.status}"

    @property
    def _messages(self) -> tuple[list[str], list[str]]:
        """Warnings, and lines of other messages; lines that continue a warning are left out."""
        warnings: list[str] = []
        others: list[str] = []
        is_skipped = False
        for line in self.errors.splitlines():
            is_skipped = line.startswith(_NOT_ERRORS) or (is_skipped and line.startswith(" "))
            if line.startswith(_WARNING):
                warnings.append(line.removeprefix(_WARNING))
            elif not is_skipped:
                others.append(line)
        return warnings, others


def run_command(arguments: Sequence[str], stdin: str = "") -> Completed:
    """Run `kubenetlab ARGUMENTS…` and return its result."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _START, json.dumps(sys.path), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        start_new_session=True,
        env={**os.environ, "KUBENETLAB_NO_HINTS": "1", "FORCE_COLOR": ""},
    )
    return Completed(done.returncode, done.stdout, done.stderr)


@contextmanager
def temporary_lab(name: str, manifests: str) -> Iterator[None]:
    """Make a lab whose pods are ready, and remove it at the end of the block, whatever happens.

    Signals that arrive while it is removed take effect afterwards.
    manifests: documents as YAML or JSON.
    Raises LabError if it cannot be made or removed.
    """
    try:
        done = run_command(["up", "--lab", name, "-f", "-"], manifests)
        if done.status:
            raise LabError(done.reason)
        yield
    finally:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            done = run_command(["down", "--lab", name])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if done.status:
            raise LabError(f"lab {name} cannot be removed: {done.reason}")


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit in the block when SIGTERM arrives, so that labs in it are removed."""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_inside(work: Callable[[], Result], result_type: type[Result]) -> Result:
    """Return the result of a function that runs in a child process.

    An ordinary user's process cannot leave a lab that it has joined. Raises the function's error.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            die_with_parent(signal.SIGKILL)
            try:
                reply, status = msgspec.json.encode(work()), 0
            except (KubenetlabError, OSError) as error:
                reply = str(error).encode()
            with open(writing, "wb") as pipe:
                pipe.write(reply)
        finally:
            os._exit(status)
    os.close(writing)
    try:
        with open(reading, "rb") as pipe:
            reply = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    if status:
        raise LabError(reply.decode() or f"the measurement ended with status {status}")
    return msgspec.json.decode(reply, type=result_type)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_STOPPED_BY_SIGTERM)
