"""Transactions as netlink messages: they have the same effect as with libnftables, byte by byte."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from kubenetlab.hoststate.netlink.wire import NLM_F_DUMP, as_string, attributes, message, string
from kubenetlab.hoststate.rules.nftables import NftObject, containers, names, transaction
from kubenetlab.hoststate.rules.nftables.chain_commands import AddChain, AddRules, AddTable
from kubenetlab.hoststate.rules.nftables.command import Command
from kubenetlab.hoststate.rules.nftables.datatypes import VERDICT, SetType
from kubenetlab.hoststate.rules.nftables.objects import Entry, rule
from kubenetlab.hoststate.rules.nftables.set_commands import AddElements, AddSet
from kubenetlab.hoststate.rules.nftables.statements import goto, jump
from kubenetlab.hoststate.rules.nftables.transactions import (
    encode_transaction,
    transaction_messages,
    transaction_text,
)
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import RulesError
from tests.clusters import deployment, rules_of, service
from tests.kernel.test_nftables import open_loader
from tests.kernel.test_rule_changes import manifests

GET_TABLES, GET_CHAINS, GET_RULES, GET_SETS, GET_ELEMENTS = (
    10 << 8 | number for number in (1, 4, 7, 10, 13)
)
DUAL = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: dual}\n---\n"
KINDS: dict[str, dict[str, Any]] = {
    "ClusterIP": {},
    "NodePort": {"type": "NodePort"},
    "LoadBalancer": {"type": "LoadBalancer"},
    "external Local": {"type": "NodePort", "externalTrafficPolicy": "Local"},
    "internal Local": {"internalTrafficPolicy": "Local"},
    "affinity": {"sessionAffinity": "ClientIP"},
    "external IPs": {"externalIPs": '["192.0.2.50"]'},
}


class Side:
    """A network namespace with both loaders, and access to the kernel's dumps."""

    def __init__(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        self.library = open_loader("library")
        self.netlink = nftables.NetlinkTransactions()
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)

    def has(self, desired: list[NftObject]) -> tuple[Any, ...]:
        """Return all objects as the kernel dumps them, and the elements as nft lists them, too.

        The dumps include names, handles and the user data of nft. Only the handles of tables are
        left out: the kernel counts a transaction again when it had to load a module for it.
        """
        tables = [_without_table_handle(body) for body in self._dump(GET_TABLES)]
        dumps = [self._dump(request) for request in (GET_CHAINS, GET_RULES, GET_SETS)]
        elements = [sorted(self._elements(body)) for body in dumps[-1]]
        listed = containers(self.library.listed(names(desired)), names(desired))
        listed_elements = [(one.name, sorted(one.elements.items())) for one in listed]
        return tables, *dumps, elements, listed_elements

    def _elements(self, dumped: bytes) -> Iterator[bytes]:
        """Yield the dumped elements of a dumped set; hash tables have them in any order."""
        described = attributes(memoryview(dumped)[2:])
        table, name = (as_string(described[type_]) for type_ in (1, 2))
        for body in self._dump(GET_ELEMENTS, dumped[0], string(1, table) + string(2, name)):
            if (elements := attributes(memoryview(body)[2:]).get(3)) is not None:
                yield from list_items(elements)

    def _dump(self, request: int, family: int = socket.AF_UNSPEC, body: bytes = b"") -> list[bytes]:
        """Return a dump without the generation's number in its headers."""
        header = struct.pack("=BBH", family, 0, 0)
        reply = sockets.request(self._socket, message(request, NLM_F_DUMP, header + body))
        return [bytes(part[:2]) + bytes(part[4:]) for part in reply]


def _without_table_handle(dumped: bytes) -> tuple[int, dict[int, bytes]]:
    """Return the family and the other attributes of a dumped table."""
    described = attributes(memoryview(dumped)[2:])
    return dumped[0], {type_: bytes(value) for type_, value in described.items() if type_ != 4}


def list_items(items: memoryview) -> Iterator[bytes]:
    """Yield the values of a list, whose attributes all have the same type."""
    offset = 0
    while offset < len(items):
        (size,) = struct.unpack_from("=H", items, offset)
        yield bytes(items[offset + 4 : offset + size])
        offset += (size + 3) & ~3


def rules(text: str, then: str = "") -> list[NftObject]:
    return rules_of("nftables", text, then)


PLACE = ("ip", "kube-proxy")
TABLE = AddTable(*PLACE)


def sent(*commands: Command) -> str:
    """Return a transaction."""
    return encode_transaction(commands)


def load_both(commands: str, by_library: Side, by_messages: Side) -> None:
    """Load a transaction as text on one side, and as messages on the other one."""
    by_library.library.run(transaction_text(commands))
    messages = transaction_messages(commands)
    assert messages is not None, transaction_text(commands)
    assert by_messages.netlink.apply(messages), transaction_text(commands)


DETECTORS: dict[str, str] = {
    "by node": "detectLocalMode: NodeCIDR",
    "by bridge": "detectLocalMode: BridgeInterface, detectLocal: {bridgeInterface: cbr0}",
    "by links": "detectLocalMode: InterfaceNamePrefix, detectLocal: {interfaceNamePrefix: veth}",
    "by nothing": "detectLocalMode: none",
}


@pytest.mark.parametrize(
    ("kind", "detector"),
    [*((kind, "") for kind in KINDS), *(("external Local", one) for one in DETECTORS.values())],
)
def test_every_kind_of_service_gives_identical_kernel_state(kind: str, detector: str) -> None:
    """Services of both families get pods, more pods and none, and are deleted.

    No command is left to the library, neither for the tables nor for their rules.
    """
    options = f", {detector}" if detector else ""
    mode = f"kubeProxyMode: {{type: nftables{options}}}"
    small = DUAL.replace("ipFamily: dual", f"ipFamily: dual, {mode}") + deployment(replicas=2)
    ones = service(**KINDS[kind])
    states: list[list[NftObject]] = [
        [],
        rules(small),
        rules(small + ones),
        rules(small + ones, deployment(replicas=5)),
        rules(small + ones, deployment(replicas=0)),
    ]
    by_library, by_messages = Side(), Side()
    for old, new in zip(states, [*states[1:], states[1]], strict=True):
        load_both(transaction(old, new), by_library, by_messages)
        assert by_messages.has(new) == by_library.has(new)


@pytest.mark.parametrize("layout", ["faithful", "fast"])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.first_kernel)])
def test_many_changes_give_identical_kernel_state(seed: int, layout: str) -> None:
    """Both layouts, with Services of all kinds that come, change and go."""
    by_library, by_messages = Side(), Side()
    old: list[NftObject] = []
    for text in manifests(f"nftables,layout={layout}", seed):
        new = rules(text)
        if commands := transaction(old, new):
            load_both(commands, by_library, by_messages)
            assert by_messages.has(new) == by_library.has(new)
        old = new
    assert old


def test_large_transactions_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel limits an ordinary user's messages."""
    desired = rules(DUAL + deployment(replicas=3) + service())
    by_library, by_messages = Side(), Side()
    base = rules(DUAL)
    for side in (by_library, by_messages):
        side.library.run(transaction_text(transaction([], base)))
    commands = transaction(base, desired)
    by_library.library.run(transaction_text(commands))
    before = nftables.Generations().read()
    monkeypatch.setattr(
        nftables.NetlinkTransactions, "_buffer_capacity", lambda self, desired: 1500
    )
    messages = transaction_messages(commands)
    assert messages is not None
    assert by_messages.netlink.apply(messages)
    assert by_messages.has(desired) == by_library.has(desired)
    assert nftables.Generations().read() > before + 1


def test_refused_messages_are_explained_by_nft() -> None:
    """Refused messages change nothing; the library then names the line."""
    Side()
    loader = nftables.open_loader()
    loader.run(sent(TABLE, AddChain(*PLACE, "there")))
    before, generation = loader.text(), nftables.Generations().read()
    commands = sent(AddChain(*PLACE, "good"), AddRules(*PLACE, "good", (rule(jump("nosuch")),)))
    messages = transaction_messages(commands)
    assert messages is not None
    netlink = nftables.NetlinkTransactions()
    assert not netlink.apply(messages)
    assert (loader.text(), nftables.Generations().read()) == (before, generation)
    with pytest.raises(RulesError, match="add rule ip kube-proxy good jump nosuch"):
        loader.run(commands)
    assert (loader.text(), nftables.Generations().read()) == (before, generation)
    netlink.close()
    loader.close()


def test_a_thousand_refusals_do_not_affect_later_transactions() -> None:
    """The socket has no room for all replies.

    Late ones are not taken for replies to the next transaction, which is not repeated.
    """
    Side()
    loader = nftables.open_loader()

    def marking(name: str) -> tuple[Command, Command]:
        return AddChain(*PLACE, name), AddRules(*PLACE, name, (rule(jump("marked")),))

    commands = [command for number in range(1000) for command in marking(f"c{number}")]
    with pytest.raises(RulesError, match="No such file or directory"):
        loader.run(sent(*commands))
    loader.run(sent(TABLE, AddChain(*PLACE, "marked")))
    loader.run(sent(*marking("next")))
    assert loader.text().count("jump marked") == 1
    loader.close()


def test_large_sets_of_elements_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command has all new elements of a map. A single message that is too large is refused."""
    Side()
    loader = nftables.open_loader()
    type_ = SetType(("ipv4_addr",), VERDICT)
    loader.run(sent(TABLE, AddChain(*PLACE, "x"), AddSet(*PLACE, "m", type_)))
    entries = (
        Entry((f"10.0.{number // 250}.{number % 250}",), goto("x")) for number in range(4000)
    )
    commands = sent(AddElements(*PLACE, "m", type_, tuple(entries)))
    monkeypatch.setattr(
        nftables.NetlinkTransactions, "_buffer_capacity", lambda self, desired: 20_000
    )
    messages = transaction_messages(commands)
    assert messages is not None
    netlink = nftables.NetlinkTransactions()
    assert netlink.apply(messages)
    assert loader.text().count("goto x") == 4000
    monkeypatch.undo()
    netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    monkeypatch.setattr(
        nftables.NetlinkTransactions, "_buffer_capacity", lambda self, desired: 1 << 30
    )
    assert not netlink.apply(messages), (
        "the kernel accepts less at once, and nothing has been changed"
    )
    netlink.close()
    loader.close()
