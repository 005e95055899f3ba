"""iptables in a namespace, by its programs that write to nftables: `iptables-nft-restore` and `-save`, and the same for IPv6.

With those every transaction raises the ruleset's generation, as with nft; the older ones (-legacy) tell nobody.
Source: iptables-restore(8), xtables-nft(8) 1.8.9.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from kubenetlab.hoststate.rules.iptables import TABLES, cleaning, decode_restores, idle_tables
from kubenetlab.hoststate.rules.rulesets import Name
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.programs import ProgramRunner, require

PROGRAM: Final = "iptables-nft-restore"
INSTALL_HINT: Final = "install it with: apt-get install iptables"

_HIDDEN = re.compile(r"^# (Table `(\S+)' is incompatible.*)$", re.MULTILINE)
"""Comment in place of a table in which something else than iptables' programs has made rules."""
_LINE = re.compile(r"line:? (\d+)")
_NAMED = re.compile(r"Chain '(\S+)'")
_PREFIX = re.compile(r"^ip6?tables\S*( v[\d.]+)?( \(nf_tables\))?: ")


def open_here() -> Iptables:
    """iptables of the namespace this process stands in. Raises RequirementError where the programs are missing."""
    require(PROGRAM, INSTALL_HINT)
    return Iptables()


class Iptables:
    """The programs, started in the namespace in which this object was made."""

    def __init__(self) -> None:
        self._programs = ProgramRunner()

    def run(self, text: str) -> str:
        for restore in decode_restores(text):
            if restore.anew:
                self.restore(restore.family, cleaning(self._save(restore.family), restore.anew))
            self.restore(restore.family, restore.text)
            if restore.is_last:
                self._clear(restore.family)
        return ""

    def listed(self, names: Sequence[Name]) -> list[tuple[str, str]]:
        """Return (family, output of `iptables-save`) pairs. Raises RulesError where a table has rules that it cannot show."""
        return [
            (family, self._save(family, is_complete=True))
            for family in dict.fromkeys(family for family, _ in names)
        ]

    def text(self) -> str:
        return "".join(self._save(family) for family in ("ip", "ip6"))

    def close(self) -> None:
        self._programs.close()

    def _save(self, family: str, *, is_complete: bool = False) -> str:
        done = self._programs.run([f"{family}tables-nft-save"])
        if done.returncode:
            raise RulesError(done.stderr.strip())
        hidden = [found[1] for found in _HIDDEN.finditer(done.stdout) if found[2] in TABLES]
        if hidden and is_complete:
            raise RulesError(f"{family}tables-save: {hidden[0]}")
        return "".join(
            line for line in done.stdout.splitlines(keepends=True) if not line.startswith("#")
        )

    def restore(self, family: str, text: str) -> None:
        """Input of one family's program; built-in chains and others' are left as they are."""
        if not text:
            return
        done = self._programs.run([f"{family}tables-nft-restore", "--noflush"], text)
        if done.returncode:
            raise RulesError(readable(done.stderr, family, text))

    def _clear(self, family: str) -> None:
        """Takes idle tables away: the older way to make them, empty built-in chains, would leave their hooks in every packet's way."""
        commands = "".join(
            f"delete table {family} {table}\n" for table in idle_tables(self._save(family))
        )
        if commands:
            with closing(self._programs.inside(nftables.open_here)) as nft:
                nft.run(commands)


def readable(said: str, family: str, text: str) -> str:
    """What the program said, with the line at which it failed and its table."""
    words = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not line.startswith(("Error occurred", "Try "))
    ]
    reason = _PREFIX.sub("", " ".join(words)).strip() or "it failed without a word"
    found = [f"{family}tables-restore: {reason}"]
    if place := _LINE.search(said):
        lines = text.splitlines()[: int(place[1])]
        start = max(
            (number for number, line in enumerate(lines) if line.startswith("*")), default=0
        )
        named = _NAMED.search(
            reason
        )  # where a chain is missing it is noticed at the end of the table
        suspects = (
            lines[-1:]
            if lines[-1:] != ["COMMIT"]
            else [line for line in lines[start:] if named and f"-j {named[1]}" in line]
        )
        found += [lines[start], *suspects[:1]]
    return "\n".join(found)
