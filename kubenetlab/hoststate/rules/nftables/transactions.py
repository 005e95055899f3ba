"""Commands of a transaction: typed values that become nft text or netlink messages.

A transaction is sent to the node agent as a JSON list of commands. Nodes have the same commands for
every endpoint of every Service, so the messages of a command are made once for all nodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Final

import msgspec

from kubenetlab.hoststate.rules.nftables.chain_commands import (
    AddChain,
    AddRules,
    AddTable,
    DeleteChain,
    DeleteTable,
    FlushChain,
)
from kubenetlab.hoststate.rules.nftables.command import Command
from kubenetlab.hoststate.rules.nftables.datatypes import SetType
from kubenetlab.hoststate.rules.nftables.objects import Entry
from kubenetlab.hoststate.rules.nftables.set_commands import (
    AddElements,
    AddSet,
    DeleteElements,
    DeleteSet,
)

MAX_COMMANDS: Final = 16_384
"""Maximum number of commands whose messages are kept: those of a node with a thousand Services."""


AnyCommand = (
    AddTable
    | DeleteTable
    | AddChain
    | FlushChain
    | DeleteChain
    | AddRules
    | AddSet
    | DeleteSet
    | AddElements
    | DeleteElements
)
"""Every command; a transaction is decoded to these types."""


def encode_transaction(commands: Sequence[Command]) -> str:
    """Return the transaction of commands; empty without any."""
    return join_transaction((encode_items(commands),))


def encode_items(items: Sequence[Command | Entry]) -> bytes:
    """Encode commands or elements as the items of a JSON list, without its brackets."""
    return msgspec.json.encode(items)[1:-1]


def join_transaction(parts: Iterable[bytes]) -> str:
    """Return the transaction of encoded commands; empty without any."""
    body = b",".join(filter(None, parts))
    return f"[{body.decode()}]" if body else ""


ADD_ELEMENTS_END: Final = b"]]"
"""End of an encoded `AddElements`, after its elements."""


@lru_cache(256)
def add_elements_begin(family: str, table: str, set_name: str, type_: SetType) -> bytes:
    """Return an encoded `AddElements` up to its elements."""
    encoded = msgspec.json.encode(AddElements(family, table, set_name, type_, ()))
    return encoded.removesuffix(ADD_ELEMENTS_END)


def transaction_text(transaction: str) -> str:
    """Return the commands of a transaction in nft syntax, each on a line of its own."""
    return text_of(_decoder().decode(transaction)) if transaction else ""


def text_of(commands: Iterable[Command]) -> str:
    """Return commands in nft syntax, each on a line of its own."""
    return "".join([f"{line}\n" for command in commands for line in command.lines])


@lru_cache(1)
def transaction_messages(transaction: str) -> tuple[bytes, ...] | None:
    """Return the messages of a transaction, to be sent between `BEGIN` and `END`.

    Messages that have to be sent together are concatenated. Return None if a command cannot be
    encoded.
    """
    result: list[bytes] = []
    try:
        for raw in _splitter().decode(transaction):
            result += _messages(bytes(raw))
    except (ValueError, LookupError, struct.error):
        return None  # a value that only nft understands, or an invalid address or number
    return tuple(result)


def prepare() -> None:
    """Build the decoders, which takes longer than decoding: the first transaction would wait."""
    _splitter()
    _command_decoder()


def forget() -> None:
    """Clear the caches of transactions and commands."""
    transaction_messages.cache_clear()
    _messages.cache_clear()


@lru_cache(MAX_COMMANDS)
def _messages(raw: bytes) -> list[bytes]:
    return _command_decoder().decode(raw).messages()


@cache
def _splitter() -> msgspec.json.Decoder[list[msgspec.Raw]]:
    return msgspec.json.Decoder(list[msgspec.Raw])


@cache
def _command_decoder() -> msgspec.json.Decoder[AnyCommand]:
    return msgspec.json.Decoder(AnyCommand)


@cache
def _decoder() -> msgspec.json.Decoder[list[AnyCommand]]:
    return msgspec.json.Decoder(list[AnyCommand])
