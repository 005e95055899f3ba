"""Commands for tables, chains and rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kubenetlab.hoststate.netlink.wire import NLM_F_CREATE, nested, string
from kubenetlab.hoststate.rules.nftables.command import Command
from kubenetlab.hoststate.rules.nftables.encoding import (
    DEL_CHAIN,
    DEL_RULE,
    DEL_TABLE,
    NEW_CHAIN,
    NEW_TABLE,
    RuleContext,
    commented,
    rule_encoder,
    table_message,
    u32,
)
from kubenetlab.hoststate.rules.nftables.objects import Hook, Rule, quoted

_HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
"""`enum nf_inet_hooks`"""


class AddTable(Command, frozen=True, gc=False):
    """A new table."""

    name: str
    comment: str = ""

    @property
    def lines(self) -> Iterable[str]:
        comment = f" {{ comment {quoted(self.comment)} ; }}" if self.comment else ""
        return (f"add table {self.family} {self.name}{comment}",)

    def messages(self) -> list[bytes]:
        userdata = commented(6, self.comment)
        return [table_message(self.family, NEW_TABLE, NLM_F_CREATE, self.name, userdata)]


class DeleteTable(Command, frozen=True, gc=False):
    """Deletion of a table with all that is in it."""

    name: str

    @property
    def lines(self) -> Iterable[str]:
        return (f"delete table {self.family} {self.name}",)

    def messages(self) -> list[bytes]:
        return [table_message(self.family, DEL_TABLE, 0, self.name)]


class AddChain(Command, frozen=True, gc=False):
    """A new chain without rules."""

    table: str
    name: str
    hook: Hook | None = None
    comment: str = ""

    @property
    def lines(self) -> Iterable[str]:
        parts = ([f"{self.hook} ;"] if self.hook else []) + (
            [f"comment {quoted(self.comment)} ;"] if self.comment else []
        )
        declaration = f" {{ {' '.join(parts)} }}" if parts else ""
        return (f"add chain {self.family} {self.table} {self.name}{declaration}",)

    def messages(self) -> list[bytes]:
        hook = _encode_hook(self.hook) if self.hook else b""
        userdata = commented(12, self.comment)
        name = string(3, self.name)
        return [
            table_message(self.family, NEW_CHAIN, NLM_F_CREATE, self.table, name, hook, userdata)
        ]


def _encode_hook(hook: Hook) -> bytes:
    place = nested(4, u32(1, _HOOKS[hook.name]), u32(2, hook.priority & 0xFFFFFFFF))
    return place + string(7, hook.type)


class FlushChain(Command, frozen=True, gc=False):
    """Deletion of all rules of a chain."""

    table: str
    name: str

    @property
    def lines(self) -> Iterable[str]:
        return (f"flush chain {self.family} {self.table} {self.name}",)

    def messages(self) -> list[bytes]:
        return [table_message(self.family, DEL_RULE, 0, self.table, string(2, self.name))]


class DeleteChain(Command, frozen=True, gc=False):
    """Deletion of a chain."""

    table: str
    name: str

    @property
    def lines(self) -> Iterable[str]:
        return (f"delete chain {self.family} {self.table} {self.name}",)

    def messages(self) -> list[bytes]:
        return [table_message(self.family, DEL_CHAIN, 0, self.table, string(3, self.name))]


class AddRules(Command, frozen=True, gc=False):
    """Rules at the end of a chain."""

    table: str
    chain: str
    rules: tuple[Rule, ...]

    @property
    def lines(self) -> Iterable[str]:
        place = f"{self.family} {self.table} {self.chain}"
        return (f"add rule {place} {rule}" for rule in self.rules)

    def messages(self) -> list[bytes]:
        """Return a message for each rule, after those of its anonymous sets."""
        result = []
        encode = rule_encoder(self.family, self.table, self.chain)
        context = RuleContext(self.family, self.table)
        for rule in self.rules:
            context.reset()
            expressions = b"".join([statement.encode(context) for statement in rule.statements])
            message = encode(expressions, commented(7, rule.comment) if rule.comment else b"")
            if context.messages:
                message = b"".join((*context.messages, message))
            result.append(message)
        return result
