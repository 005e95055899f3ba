"""iptables backend, by the nft variants of `iptables-restore` and `iptables-save`.

Those of ip6tables are used for IPv6. With these programs every transaction raises the ruleset's
generation, as with nft. The legacy programs send no notification.

Source: iptables-restore(8), xtables-nft(8) 1.8.9.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from kubenetlab.hoststate.rules.iptables import TABLES, decode_restores
from kubenetlab.hoststate.rules.iptables_save import empty_tables, replacement_input
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.programs import ProgramRunner, require_program

PROGRAM: Final = "iptables-nft-restore"
INSTALL_HINT: Final = "install it with: apt-get install iptables"

_INCOMPATIBLE_TABLE = re.compile(r"^# (Table `(\S+)' is incompatible.*)$", re.MULTILINE)
"""Comment that replaces a table with rules not made by iptables."""
_LINE_NUMBER = re.compile(r"line:? (\d+)")
_CHAIN_NAME = re.compile(r"Chain '(\S+)'")
_PREFIX = re.compile(r"^ip6?tables\S*( v[\d.]+)?( \(nf_tables\))?: ")


def open_loader() -> Iptables:
    """Open the iptables loader in the current network namespace.

    Raises RequirementError if the programs are missing.
    """
    require_program(PROGRAM, INSTALL_HINT)
    return Iptables()


class Iptables:
    """Rules of the namespace in which this object was created."""

    def __init__(self) -> None:
        self._programs = ProgramRunner()

    def run(self, text: str) -> str:
        for restore in decode_restores(text):
            lines = restore.text
            if restore.anew:
                lines = replacement_input(self._save(restore.family), lines, restore.anew)
            self.restore(restore.family, lines)
            if restore.is_last:
                self._delete_idle_tables(restore.family)
        return ""

    def listed(self, names: Sequence[OwnedName]) -> list[tuple[str, str]]:
        """Return (family, output of `iptables-save`) pairs.

        Raises RulesError if a table has rules that iptables cannot show.
        """
        return [
            (family, self._save(family, is_complete=True))
            for family in dict.fromkeys(family for family, _ in names)
        ]

    def text(self) -> str:
        return "".join(self._save(family) for family in ("ip", "ip6"))

    def close(self) -> None:
        self._programs.close()

    def _save(self, family: str, *, is_complete: bool = False) -> str:
        result = self._programs.run([f"{family}tables-nft-save"])
        if result.returncode:
            raise RulesError(result.stderr.strip())
        incompatible = [
            match[1] for match in _INCOMPATIBLE_TABLE.finditer(result.stdout) if match[2] in TABLES
        ]
        if incompatible and is_complete:
            raise RulesError(f"{family}tables-save: {incompatible[0]}")
        return "".join(
            line for line in result.stdout.splitlines(keepends=True) if not line.startswith("#")
        )

    def restore(self, family: str, text: str) -> None:
        """Run the restore program of a family with this input; keep other chains as they are."""
        if not text:
            return
        result = self._programs.run([f"{family}tables-nft-restore", "--noflush"], text)
        if result.returncode:
            raise RulesError(format_error(result.stderr, family, text))

    def _delete_idle_tables(self, family: str) -> None:
        """Delete tables without rules and own chains.

        Empty built-in chains, as the legacy programs leave them, would keep their hooks in the path
        of every packet.
        """
        commands = "".join(
            f"delete table {family} {table}\n" for table in empty_tables(self._save(family))
        )
        if commands:
            with closing(self._programs.inside(nftables.open_loader)) as nft:
                nft.run_commands(commands)


def format_error(output: str, family: str, text: str) -> str:
    """Return the program's error message, with the rejected line and its table."""
    messages = [
        line.strip()
        for line in output.splitlines()
        if line.strip() and not line.startswith(("Error occurred", "Try "))
    ]
    reason = _PREFIX.sub("", " ".join(messages)).strip() or "the program failed without a message"
    result = [f"{family}tables-restore: {reason}"]
    if position := _LINE_NUMBER.search(output):
        input_lines = text.splitlines()[: int(position[1])]
        start = max(
            (number for number, line in enumerate(input_lines) if line.startswith("*")), default=0
        )
        # A missing chain is reported at the end of the table.
        chain = _CHAIN_NAME.search(reason)
        suspects = (
            input_lines[-1:]
            if input_lines[-1:] != ["COMMIT"]
            else [line for line in input_lines[start:] if chain and f"-j {chain[1]}" in line]
        )
        result += [input_lines[start], *suspects[:1]]
    return "\n".join(result)
