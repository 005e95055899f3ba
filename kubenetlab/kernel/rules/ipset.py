"""ipset in a namespace, by its program: `ipset restore` and `ipset save`.

Source: ipset(8) 7.17.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from kubenetlab.hoststate.rules.ipset import (
    Contents,
    decode_restore,
    failed_line,
    followed,
    is_as_told,
)
from kubenetlab.hoststate.rules.rulesets import Name
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.programs import ProgramRunner, require

PROGRAM: Final = "ipset"
INSTALL_HINT: Final = "install it with: apt-get install ipset"
REST_S: Final = 10.0
"""How often it is looked whether the sets are as they were told: each time takes a process."""

_PREFIX = re.compile(r"^ipset v[\d.]+: (Error in line \d+: )?")


def open_here() -> Ipset:
    """ipset of the namespace this process stands in. Raises RequirementError where the program is missing."""
    require(PROGRAM, INSTALL_HINT)
    return Ipset()


class Ipset:
    """The program, started in the namespace in which this object was made."""

    def __init__(self) -> None:
        self._programs = ProgramRunner()
        self._told: Contents = {}
        """What should be in our sets."""
        self._look_at = 0.0

    def run(self, text: str) -> str:
        restore = decode_restore(text)
        self.restore(restore.text)
        if restore.anew:
            gone = [
                name
                for name in self._run(["list", "-n"]).split()
                if name.startswith(restore.anew) and name not in restore.kept
            ]
            self.restore("".join(f"destroy {name}\n" for name in gone))
        self._told = followed(self._told, restore)
        return ""

    def was_touched(self) -> bool:
        if not self._told or time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + REST_S
        return not is_as_told(self._told, self.text())

    def restore(self, text: str) -> None:
        """Input of the program."""
        if text:
            self._run(["restore"], text)

    def listed(self, names: Sequence[Name]) -> str:
        return self.text()

    def text(self) -> str:
        return self._run(["save"])

    def close(self) -> None:
        self._programs.close()

    def _run(self, words: list[str], text: str = "") -> str:
        done = self._programs.run([PROGRAM, *words], text)
        if done.returncode:
            raise RulesError(readable(done.stderr, text))
        return done.stdout


def readable(said: str, text: str) -> str:
    """What the program said, with the line at which it failed."""
    reason = _PREFIX.sub("", said.strip()) or "it failed without a word"
    number = failed_line(said)
    return (
        "\n".join([f"ipset restore: {reason}", *text.splitlines()[number - 1 : number]])
        if number
        else reason
    )
