"""nftables backend: transactions, listings, and the number of the ruleset's generation.

Transactions are sent as netlink messages. libnftables runs those that the kernel refuses, to get an
error that names the statement, and lists rules. It is called by ctypes; its context is created
inside the namespace when it is needed, and kept. Without the library the program `nft` is used.

Source: libnftables(3); include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nfnetlink.c (6.12).
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
from typing import Final

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.netlink.wire import NLM_F_ACK, attributes, message
from kubenetlab.hoststate.rules.nftables.encoding import BEGIN, END
from kubenetlab.hoststate.rules.nftables.transactions import (
    forget,
    transaction_messages,
    transaction_text,
)
from kubenetlab.hoststate.rules.rulesets import OwnedName
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.syscalls import open_namespace

LIBRARY: Final = "libnftables.so.1"
PROGRAM: Final = "nft"
INSTALL_HINT: Final = "install it with: apt-get install nftables"

_SO_SNDBUFFORCE = 32
"""asm-generic/socket.h"""
_OVERHEAD = 32
"""Bytes of the socket's buffer that netlink_sendmsg() does not use for the message."""
_STATELESS_OUTPUT = 1 << 2
"""NFT_CTX_OUTPUT_STATELESS: omit values of counters and expiry times of elements."""
_GET_GENERATION, _NFTA_GEN_ID = 10 << 8 | 16, 1
"""NFNL_SUBSYS_NFTABLES with NFT_MSG_GETGEN, and the attribute of its reply."""
_NFGENMSG = struct.Struct("=BBH")

_ERROR_LINE = re.compile(r"^(?:/\S+?:(\d+):(\d+)-(\d+): )?Error: (.*)$")
_CONTEXT_CHARS = 60
"""Characters of a long statement that are shown on each side of an error."""


def open_loader() -> Nft:
    """Open the nftables loader in the current network namespace."""
    return Nft()


def _open_nft() -> LibraryNft | ProgramNft:
    """Open the library in the current network namespace, or the program.

    Raises RequirementError if neither is installed.
    """
    try:
        return LibraryNft()
    except OSError:
        if shutil.which(PROGRAM) is None:
            raise RequirementError(
                f"neither {LIBRARY} nor the program {PROGRAM} is installed; {INSTALL_HINT}"
            ) from None
        return ProgramNft()


def has_library() -> bool:
    """Return True if libnftables can be loaded."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


class Nft:
    """Loader of the nftables backend.

    Transactions are sent as netlink messages. If the kernel refuses them, nft runs the same
    commands to get a readable error. nft is opened when it is needed, which is seldom. Methods that
    need it raise RequirementError if neither the library nor the program is installed.
    """

    def __init__(self) -> None:
        self._netlink = NetlinkTransactions()
        self._netns = open_namespace("net")
        self._opened: LibraryNft | ProgramNft | None = None

    @property
    def _nft(self) -> LibraryNft | ProgramNft:
        if self._opened is None:
            # Imports threads and subprocesses, which loading rules does not need.
            from kubenetlab.kernel.rules.programs import call_inside

            self._opened = call_inside(self._netns, _open_nft)
        return self._opened

    def run(self, text: str) -> str:
        messages = transaction_messages(text)
        if messages is not None and self._netlink.apply(messages):
            return ""
        return self.run_commands(transaction_text(text))

    def run_commands(self, text: str) -> str:
        """Run commands in nft syntax; split them if the kernel does not accept so many at once.

        The kernel limits an ordinary user's transactions. A line depends only on lines before it.
        Return the output. Raises RulesError.
        """
        try:
            return self._nft.run(text)
        except RulesError as error:
            lines = text.splitlines(keepends=True)
            if os.strerror(errno.EMSGSIZE) not in str(error) or len(lines) < 2:
                raise
        return self.run_commands("".join(lines[: len(lines) // 2])) + self.run_commands(
            "".join(lines[len(lines) // 2 :])
        )

    def text(self) -> str:
        return self._nft.text()

    def listed(self, names: Sequence[OwnedName]) -> list[str | None]:
        return self._nft.listed(names)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        os.close(self._netns)
        self._netlink.close()
        forget()


class NetlinkTransactions:
    """Transactions as netlink messages, in the namespace in which this object was created."""

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER, socket.SOCK_NONBLOCK)

    def apply(self, transaction: Sequence[bytes]) -> bool:
        """Send a transaction; return False if the kernel refuses it, without any effect.

        Raises RulesError if the transaction had to be split and the kernel refuses a later part.
        """
        for number, part in enumerate(self._split(transaction)):
            if (refusal := self._send(part)) and not number:
                return False
            if refusal:
                raise RulesError(f"Error: {os.strerror(refusal)}")
        return True

    def _send(self, part: bytes) -> int:
        """Send one part; return the errno of the refusal, or 0 if it is in force."""
        sockets.read_errors(self._socket)  # discard late replies to former transactions
        try:
            self._socket.send(part)
        except OSError as error:
            return error.errno or errno.EIO
        return sockets.read_errors(self._socket)

    def _split(self, transaction: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the transaction in parts that the kernel accepts; usually one.

        An ordinary user's lab cannot raise the limit (net.core.wmem_max).
        """
        framing = len(BEGIN) + len(END)
        capacity = self._buffer_capacity(sum(map(len, transaction)) + framing) - framing
        size, part = 0, [BEGIN]
        for request in transaction:
            if size + len(request) > capacity and size:
                yield b"".join((*part, END))
                size, part = 0, [BEGIN]
            part.append(request)
            size += len(request)
        yield b"".join((*part, END))

    def _buffer_capacity(self, desired: int) -> int:
        """Return the maximum size of a message, after trying to raise it to `desired` bytes."""
        for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
            if (
                capacity := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD
            ) >= desired:
                break
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, desired)
            except PermissionError:
                continue
            capacity = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD
        return capacity

    def close(self) -> None:
        self._socket.close()


class LibraryNft:
    """A libnftables context of the namespace in which it was created, which it keeps alive."""

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
        failed, printed, errors = self._run(self._library.nft_run_cmd_from_buffer, text.encode())
        if failed and text.count("\n") > 1:
            # For a buffer the library quotes the first line, for a file the rejected one.
            memory = os.memfd_create("rules", os.MFD_CLOEXEC)
            with os.fdopen(memory, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                failed, printed, errors = self._run(
                    self._library.nft_run_cmd_from_filename, f"/proc/self/fd/{memory}".encode()
                )
        if failed:
            raise RulesError(format_error(errors, text))
        return printed

    def _run(
        self, function: Callable[[ctypes.c_void_p, bytes], int], argument: bytes
    ) -> tuple[int, str, str]:
        """Return (0 for success, output, errors)."""
        failed = function(self._context, argument)
        printed = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode(
            errors="replace"
        )
        errors = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(
            errors="replace"
        )
        return failed, printed, errors

    def text(self) -> str:
        return self.run("list ruleset")

    def listed(self, names: Sequence[OwnedName]) -> list[str | None]:
        """Return nft's listing of each table, without state; None for one that does not exist."""
        self._library.nft_ctx_output_set_flags(self._context, _STATELESS_OUTPUT)
        try:
            return [
                _list_table(partial(self.run, f"list table {family} {table}"))
                for family, table in names
            ]
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = ctypes.c_void_p()


class ProgramNft:
    """The program `nft`, run in the namespace in which this object was created."""

    def __init__(self) -> None:
        from kubenetlab.kernel.rules.programs import ProgramRunner

        self._programs = ProgramRunner()

    def run(self, text: str) -> str:
        return self._run(["-f", "-"], text)

    def text(self) -> str:
        return self._run(["list", "ruleset"])

    def listed(self, names: Sequence[OwnedName]) -> list[str | None]:
        """Return nft's listing of each table, without state; None for one that does not exist."""
        return [
            _list_table(partial(self._run, ["--stateless", "list", "table", *name]))
            for name in names
        ]

    def close(self) -> None:
        self._programs.close()

    def _run(self, arguments: list[str], text: str = "") -> str:
        result = self._programs.run([PROGRAM, *arguments], text)
        if result.returncode:
            raise RulesError(format_error(result.stderr, text))
        return result.stdout


def _list_table(run: Callable[[], str]) -> str | None:
    """Run a command that lists a table; return None if the table does not exist.

    Raises RulesError for other errors.
    """
    try:
        return run()
    except RulesError as error:
        if os.strerror(errno.ENOENT) not in str(error):
            raise
        return None


def format_error(output: str, text: str) -> str:
    """Return nft's error messages without file names.

    The result has the first error, its statement with a mark below, and the number of further
    errors. Long statements, such as sets with many elements, are cut off around the mark.
    """
    errors = [error for line in output.splitlines() if (error := _ERROR_LINE.match(line))]
    if not errors:
        return output.strip()
    row, begin, end, message = errors[0].groups()
    lines = [message]
    if row:
        statement = text.splitlines()[int(row) - 1]
        lines += _excerpt(statement, int(begin) - 1, int(end))
    if len(errors) > 1:
        lines.append(f"and {len(errors) - 1} more")
    return "\n".join(lines)


def _excerpt(statement: str, begin: int, end: int) -> list[str]:
    head = ""
    if begin > 2 * _CONTEXT_CHARS:
        head = f"{statement[:_CONTEXT_CHARS]} … "
        statement, begin, end = (
            statement[begin - _CONTEXT_CHARS :],
            _CONTEXT_CHARS,
            end - begin + _CONTEXT_CHARS,
        )
    mark = "^" * max(1, min(end - begin, _CONTEXT_CHARS))
    return [head + statement[: begin + 2 * _CONTEXT_CHARS], " " * (len(head) + begin) + mark]


class Generations:
    """Reader of the ruleset's generation in the namespace in which this object was created.

    Every transaction raises the generation.
    """

    def __init__(self) -> None:
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)

    def read(self) -> int:
        (reply,) = sockets.request(
            self._socket,
            message(_GET_GENERATION, NLM_F_ACK, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)),
        )
        return int.from_bytes(attributes(reply[_NFGENMSG.size :])[_NFTA_GEN_ID], "big")

    def close(self) -> None:
        self._socket.close()
