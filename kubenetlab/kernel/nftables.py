"""nftables in a namespace: one transaction of text, a listing, and the number of its generation.

libnftables by ctypes, its context made inside the namespace and kept: 0.2 to 1 ms a change instead of a process each. Where the
library cannot be loaded, the program `nft` does the same. Source: libnftables(3); include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules import Name
from kubenetlab.hoststate.wire import NLM_F_ACK, attributes, message
from kubenetlab.kernel import netlink
from kubenetlab.kernel.rules import RulesError

LIBRARY: Final = "libnftables.so.1"
PROGRAM: Final = "nft"
INSTALL_HINT: Final = "install it with: apt-get install nftables"

_JSON_OUTPUT = 1 << 4
_GET_GENERATION, _NFTA_GEN_ID = 10 << 8 | 16, 1
"""NFNL_SUBSYS_NFTABLES with NFT_MSG_GETGEN; what the answer has in it."""
_NFGENMSG = struct.Struct("=BBH")

_PLACE = re.compile(r"^(?:/\S+?:(\d+):(\d+)-(\d+): )?Error: (.*)$")
_SHOWN = 60
"""How much of a long statement is shown on each side of what is wrong with it."""


def open_here() -> LibraryNft | ProgramNft:
    """nftables of the namespace this process stands in. Raises RequirementError where neither library nor program is there."""
    try:
        return LibraryNft()
    except OSError:
        if shutil.which(PROGRAM) is None:
            raise RequirementError(f"neither {LIBRARY} nor the program {PROGRAM} is here; {INSTALL_HINT}") from None
        return ProgramNft()


def has_library() -> bool:
    """True when libnftables can be loaded."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


class LibraryNft:
    """A libnftables context. It keeps the namespace it was made in, and keeps that alive."""

    def __init__(self) -> None:
        self._library = library = ctypes.CDLL(LIBRARY)
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_output_buffer.restype = library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, text: str) -> str:
        failed, printed, said = self._run(self._library.nft_run_cmd_from_buffer, text.encode())
        if failed and text.count("\n") > 1:  # of a buffer, the library shows the first line, whichever was wrong; of a file, the right one
            memory = os.memfd_create("rules", os.MFD_CLOEXEC)
            with os.fdopen(memory, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                failed, printed, said = self._run(self._library.nft_run_cmd_from_filename, f"/proc/self/fd/{memory}".encode())
        if failed:
            raise RulesError(readable(said, text))
        return printed

    def _run(self, way: Any, argument: bytes) -> tuple[int, str, str]:
        """(not 0 when it failed, what was printed, what went wrong)"""
        failed = way(self._context, argument)
        printed = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode(errors="replace")
        said = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        return failed, printed, said

    def text(self) -> str:
        return self.run("list ruleset")

    def listed(self, names: Sequence[Name]) -> list[Any]:
        return [self._list_table(family, table) for family, table in names]

    def _list_table(self, family: str, table: str) -> Any:
        self._library.nft_ctx_output_set_flags(self._context, _JSON_OUTPUT)
        try:
            return json.loads(self.run(f"list table {family} {table}"))
        except RulesError:
            return None
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p()


class ProgramNft:
    """The program `nft`, started in the namespace in which this object was made."""

    def __init__(self) -> None:
        from kubenetlab.kernel.programs import Programs

        self._programs = Programs()

    def run(self, text: str) -> str:
        return self._run(["-f", "-"], text)

    def text(self) -> str:
        return self._run(["list", "ruleset"])

    def listed(self, names: Sequence[Name]) -> list[Any]:
        return [self._list_table(family, table) for family, table in names]

    def _list_table(self, family: str, table: str) -> Any:
        try:
            return json.loads(self._run(["-j", "list", "table", family, table]))
        except RulesError:
            return None

    def close(self) -> None:
        self._programs.close()

    def _run(self, arguments: list[str], text: str = "") -> str:
        done = self._programs.run([PROGRAM, *arguments], text)
        if done.returncode:
            raise RulesError(readable(done.stderr, text))
        return done.stdout


def readable(said: str, text: str) -> str:
    """What nft said of some commands, without names of files: the first refusal with its statement and a mark below, and how many follow.

    A statement can fill pages, a set's elements say: what stands far from the mark is left out, but for how it begins.
    """
    places = [place for line in said.splitlines() if (place := _PLACE.match(line))]
    if not places:
        return said.strip()
    row, begin, end, message = places[0].groups()
    found = [message]
    if row:
        statement = text.splitlines()[int(row) - 1]
        found += _marked(statement, int(begin) - 1, int(end))
    if len(places) > 1:
        found.append(f"and {len(places) - 1} more")
    return "\n".join(found)


def _marked(statement: str, begin: int, end: int) -> list[str]:
    head = ""
    if begin > 2 * _SHOWN:
        head = f"{statement[:_SHOWN]} … "
        statement, begin, end = statement[begin - _SHOWN :], _SHOWN, end - begin + _SHOWN
    mark = "^" * max(1, min(end - begin, _SHOWN))
    return [head + statement[: begin + 2 * _SHOWN], " " * (len(head) + begin) + mark]


class Generations:
    """Asks for the number of the ruleset's generation in the namespace in which this object was made: every transaction raises it."""

    def __init__(self) -> None:
        self._socket = netlink.opened(netlink.NETLINK_NETFILTER)

    def read(self) -> int:
        (answer,) = netlink.ask(self._socket, message(_GET_GENERATION, NLM_F_ACK, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)))
        return int.from_bytes(attributes(answer[_NFGENMSG.size :])[_NFTA_GEN_ID], "big")

    def close(self) -> None:
        self._socket.close()
