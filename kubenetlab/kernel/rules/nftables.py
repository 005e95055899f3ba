"""nftables in a namespace: one transaction of text, a listing, and the number of its generation.

What is said for every endpoint is sent as it is, without libnftables. For the rest there is libnftables by ctypes, its context made inside
the namespace and kept: 0.2 to 1 ms a change instead of a process each. Where the library cannot be loaded, the program `nft` does the
same. Source: libnftables(3); include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nfnetlink.c (6.12).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.rules import nft_messages
from kubenetlab.hoststate.rules.rulesets import Name
from kubenetlab.hoststate.wire import NLM_F_ACK, NLMSG_ERROR, attributes, message, messages
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules.backends import RulesError

LIBRARY: Final = "libnftables.so.1"
PROGRAM: Final = "nft"
INSTALL_HINT: Final = "install it with: apt-get install nftables"

_SO_SNDBUFFORCE = 32
"""asm-generic/socket.h"""
_OVERHEAD = 32
"""netlink_sendmsg() takes so much less than the socket's buffer."""
_STATELESS_OUTPUT = 1 << 2
"""NFT_CTX_OUTPUT_STATELESS: without counters' values and elements' expiry times."""
_GET_GENERATION, _NFTA_GEN_ID = 10 << 8 | 16, 1
"""NFNL_SUBSYS_NFTABLES with NFT_MSG_GETGEN; what the answer has in it."""
_NFGENMSG = struct.Struct("=BBH")

_PLACE = re.compile(r"^(?:/\S+?:(\d+):(\d+)-(\d+): )?Error: (.*)$")
_SHOWN = 60
"""How much of a long statement is shown on each side of what is wrong with it."""


def open_here() -> Nft:
    """nftables of the namespace this process stands in. Raises RequirementError where neither library nor program is there."""
    words: LibraryNft | ProgramNft
    try:
        words = LibraryNft()
    except OSError:
        if shutil.which(PROGRAM) is None:
            raise RequirementError(
                f"neither {LIBRARY} nor the program {PROGRAM} is here; {INSTALL_HINT}"
            ) from None
        words = ProgramNft()
    return Nft(words)


def has_library() -> bool:
    """True when libnftables can be loaded."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


class Nft:
    """Sends what can be sent as messages, and has all else done in words; also what is refused, for the words say what is wrong."""

    def __init__(self, words: LibraryNft | ProgramNft) -> None:
        self._words = words
        self._direct = Direct()

    def run(self, text: str) -> str:
        known = nft_messages.transaction(text)
        if known is not None and self._direct.is_done(known):
            return ""
        return self._in_words(text)

    def _in_words(self, text: str) -> str:
        """In several transactions where the kernel does not take so much at once from an ordinary user. A line needs only what stands before it."""
        try:
            return self._words.run(text)
        except RulesError as error:
            lines = text.splitlines(keepends=True)
            if os.strerror(errno.EMSGSIZE) not in str(error) or len(lines) < 2:
                raise
        return self._in_words("".join(lines[: len(lines) // 2])) + self._in_words(
            "".join(lines[len(lines) // 2 :])
        )

    def text(self) -> str:
        return self._words.text()

    def listed(self, names: Sequence[Name]) -> list[str | None]:
        return self._words.listed(names)

    def close(self) -> None:
        self._words.close()
        self._direct.close()
        nft_messages.forget()


class Direct:
    """Transactions as messages, in the namespace in which this object was made."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER, socket.SOCK_NONBLOCK)

    def is_done(self, transaction: Sequence[bytes]) -> bool:
        """False where the kernel refuses: nothing has been done then. Raises RulesError where it refuses what follows on what it has taken."""
        for number, part in enumerate(self._parts(transaction)):
            if (refusal := self._refusal_of(part)) and not number:
                return False
            if refusal:
                raise RulesError(f"Error: {os.strerror(refusal)}")
        return True

    def _refusal_of(self, part: bytes) -> int:
        """The error number with which the kernel refuses a transaction; 0 when it is in force."""
        self._answered()  # whatever it said last: nothing of that is about this one
        try:
            self._socket.send(part)
        except OSError as error:
            return error.errno or errno.EIO
        return self._answered()

    def _parts(self, transaction: Sequence[bytes]) -> Iterator[bytes]:
        """One, if the kernel takes so much at once: an ordinary user's lab has no right to more than others have."""
        frame = len(nft_messages.BEGIN) + len(nft_messages.END)
        room = self._room(sum(map(len, transaction)) + frame) - frame
        size, part = 0, [nft_messages.BEGIN]
        for line in transaction:
            if size + len(line) > room and size:
                yield b"".join((*part, nft_messages.END))
                size, part = 0, [nft_messages.BEGIN]
            part.append(line)
            size += len(line)
        yield b"".join((*part, nft_messages.END))

    def _room(self, wanted: int) -> int:
        """How much can be sent at once, as much as is wanted if possible."""
        for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
            if (
                room := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD
            ) >= wanted:
                break
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, wanted)
            except PermissionError:
                continue
            room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD
        return room

    def _answered(self) -> int:
        """The first error number in what the kernel has answered; 0 when it has not: it says nothing when all is well.

        It says of each line what is wrong with it, also when there is no room for so many answers: that is an answer, too.
        """
        found = 0
        while True:
            try:
                answer = self._socket.recv(sockets.RECEIVE_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                found = found or error.errno or errno.EIO
                continue
            for type_, _, _, body in messages(answer):
                if type_ == NLMSG_ERROR:
                    found = found or sockets.error_number(body)

    def close(self) -> None:
        self._socket.close()


class LibraryNft:
    """A libnftables context. It keeps the namespace it was made in, and keeps that alive."""

    def __init__(self) -> None:
        self._library = library = ctypes.CDLL(LIBRARY)
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_output_buffer.restype = library.nft_ctx_get_error_buffer.restype = (
            ctypes.c_char_p
        )
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, text: str) -> str:
        failed, printed, said = self._run(self._library.nft_run_cmd_from_buffer, text.encode())
        if (
            failed and text.count("\n") > 1
        ):  # of a buffer, the library shows the first line, whichever was wrong; of a file, the right one
            memory = os.memfd_create("rules", os.MFD_CLOEXEC)
            with os.fdopen(memory, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                failed, printed, said = self._run(
                    self._library.nft_run_cmd_from_filename, f"/proc/self/fd/{memory}".encode()
                )
        if failed:
            raise RulesError(readable(said, text))
        return printed

    def _run(self, way: Any, argument: bytes) -> tuple[int, str, str]:
        """(not 0 when it failed, what was printed, what went wrong)"""
        failed = way(self._context, argument)
        printed = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode(
            errors="replace"
        )
        said = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(
            errors="replace"
        )
        return failed, printed, said

    def text(self) -> str:
        return self.run("list ruleset")

    def listed(self, names: Sequence[Name]) -> list[str | None]:
        """Return what nft prints of each table, without state; None for one that does not exist."""
        self._library.nft_ctx_output_set_flags(self._context, _STATELESS_OUTPUT)
        try:
            return [
                _listing(partial(self.run, f"list table {family} {table}"))
                for family, table in names
            ]
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p()


class ProgramNft:
    """The program `nft`, started in the namespace in which this object was made."""

    def __init__(self) -> None:
        from kubenetlab.kernel.rules.programs import ProgramRunner

        self._programs = ProgramRunner()

    def run(self, text: str) -> str:
        return self._run(["-f", "-"], text)

    def text(self) -> str:
        return self._run(["list", "ruleset"])

    def listed(self, names: Sequence[Name]) -> list[str | None]:
        """Return what nft prints of each table, without state; None for one that does not exist."""
        return [
            _listing(partial(self._run, ["--stateless", "list", "table", *name])) for name in names
        ]

    def close(self) -> None:
        self._programs.close()

    def _run(self, arguments: list[str], text: str = "") -> str:
        done = self._programs.run([PROGRAM, *arguments], text)
        if done.returncode:
            raise RulesError(readable(done.stderr, text))
        return done.stdout


def _listing(run: Callable[[], str]) -> str | None:
    """Run a command that lists a table; return None where the table does not exist. Raises RulesError."""
    try:
        return run()
    except RulesError as error:
        if os.strerror(errno.ENOENT) not in str(error):
            raise
        return None


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
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)

    def read(self) -> int:
        (answer,) = sockets.ask(
            self._socket,
            message(_GET_GENERATION, NLM_F_ACK, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)),
        )
        return int.from_bytes(attributes(answer[_NFGENMSG.size :])[_NFTA_GEN_ID], "big")

    def close(self) -> None:
        self._socket.close()
