"""nftables in a namespace: one transaction of text, a listing, and the generation number.

libnftables by ctypes, its context made inside the namespace and kept: 0.2 to 1 ms a change instead of a process each. Where the
library cannot be loaded, the program `nft` does the same. Source: libnftables(3); include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import struct
from typing import Any, Final, Protocol

from kubenetlab.errors import RequirementError
from kubenetlab.hoststate.wire import HEADER, NLM_F_REQUEST, attributes, messages

LIBRARY: Final = "libnftables.so.1"
PROGRAM: Final = "nft"
INSTALL_HINT: Final = "install it with: apt-get install nftables"

_JSON_OUTPUT = 1 << 4
NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES, _NFT_MSG_GETGEN, _NFTA_GEN_ID = 10, 16, 1


class NftError(Exception):
    """What nft said about a transaction; nothing of it was done."""


class Nft(Protocol):
    """nftables of the namespace in which the object was made."""

    def run(self, text: str) -> str:
        """Runs commands as one transaction and returns what they print. Raises NftError."""

    def list_table(self, family: str, table: str) -> Any:
        """A table as nft's JSON, or None when there is none."""

    def close(self) -> None: ...


def open_here() -> Nft:
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
        failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        printed = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode(errors="replace")
        said = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        if failed:
            raise NftError(said.strip())
        return str(printed)

    def list_table(self, family: str, table: str) -> Any:
        self._library.nft_ctx_output_set_flags(self._context, _JSON_OUTPUT)
        try:
            return json.loads(self.run(f"list table {family} {table}"))
        except NftError:
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
        self._netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def run(self, text: str) -> str:
        return self._run(["-f", "-"], text)

    def list_table(self, family: str, table: str) -> Any:
        try:
            return json.loads(self._run(["-j", "list", "table", family, table], ""))
        except NftError:
            return None

    def close(self) -> None:
        os.close(self._netns)

    def _run(self, arguments: list[str], text: str) -> str:
        import subprocess

        from kubenetlab.kernel.syscalls import CLONE_NEWNET, setns

        netns = self._netns
        done = subprocess.run(
            [PROGRAM, *arguments], input=text, capture_output=True, text=True, check=False, preexec_fn=lambda: setns(netns, CLONE_NEWNET)
        )
        if done.returncode:
            raise NftError(done.stderr.strip())
        return done.stdout


class Generations:
    """Asks for the number of the ruleset's generation in the namespace in which this object was made: every transaction raises it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)

    def read(self) -> int:
        body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
        self._socket.send(HEADER.pack(HEADER.size + len(body), _NFNL_SUBSYS_NFTABLES << 8 | _NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0) + body)
        for _, _, _, answer in messages(self._socket.recv(8192)):
            found = attributes(answer[4:])
            if _NFTA_GEN_ID in found:
                return int.from_bytes(found[_NFTA_GEN_ID], "big")
        return 0

    def close(self) -> None:
        self._socket.close()
