"""Creation of a lab by a command in the background."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from kubenetlab.errors import LabError
from kubenetlab.lab import rundir
from kubenetlab.library.commands import warn
from kubenetlab.library.process import StartedCommand, Surroundings, remove_at_end, run_command


class LabCreation:
    """A lab that is being made. Either `finish` or `stop` has to be called."""

    def __init__(
        self,
        lab: str,
        arguments: Sequence[str],
        text: str,
        *,
        surroundings: Surroundings | None = None,
        is_removed_at_end: bool = False,
    ) -> None:
        """Start to make a lab.

        arguments: options of `up` (arguments.up_arguments).
        text: manifests for standard input.
        surroundings: of the command; by default the present ones.
        is_removed_at_end: True if the command server removes the lab when this process ends.
        Raises LabError if the lab is up already.
        """
        if rundir.is_alive(lab):
            raise LabError(f"lab {lab} is up already; connect to it with Lab({lab!r})")
        self.lab = lab
        self._is_removed_at_end = is_removed_at_end
        if is_removed_at_end:
            remove_at_end(lab)
        self._command = StartedCommand(
            ["up", "--lab", lab, *arguments],
            stdin=text,
            surroundings=surroundings,
            ends_with_program=True,
        )

    def finish(self) -> None:
        """Wait until the lab is made. Raises the error of the command; nothing is left then."""
        try:
            with self._command:
                done = self._command.completed().require(0)
            warn(done)  # may raise, with a filter for warnings
        except BaseException as error:
            if rundir.run_directory(self.lab).exists():  # also after a command that was killed
                run_command(["down", "--lab", self.lab])
            if self._is_removed_at_end and isinstance(error, Exception):  # the command has ended
                remove_at_end(self.lab, is_gone=True)
            raise

    def stop(self) -> None:
        """Kill the command unless it has ended. The caller removes what it has made."""
        self._command.close()


def new_name() -> str:
    """Return a name for a lab, which no other lab has, so that tests can run in parallel."""
    return f"lab-{secrets.token_hex(4)}"
