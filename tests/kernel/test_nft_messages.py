"""Transactions as messages: in the kernel it is the same, to the byte, as when libnftables reads the words."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from kubenetlab.hoststate.rules import nft_messages
from kubenetlab.hoststate.rules.nftables import NftObject, containers, names, transaction
from kubenetlab.hoststate.wire import NLM_F_DUMP, message
from kubenetlab.kernel import syscalls
from kubenetlab.kernel.netlink import sockets
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import RulesError
from tests.clusters import deployment, rules_of, service
from tests.kernel.test_nftables import opened
from tests.kernel.test_rule_changes import manifests

GET_CHAINS, GET_RULES, GET_SETS = (10 << 8 | number for number in (4, 7, 10))
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
    """nftables of a network namespace of its own, by the library; and what the kernel has there."""

    def __init__(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        self.library = opened("library")
        self.direct = nftables.NetlinkTransactions()
        self._socket = sockets.open_socket(sockets.NETLINK_NETFILTER)

    def has(self, wanted: list[NftObject]) -> tuple[Any, ...]:
        """Chains, rules and sets as the kernel gives them, their names, numbers and nft's own notes included; and the elements, in one order."""
        dumps = [self._dump(what) for what in (GET_CHAINS, GET_RULES, GET_SETS)]
        tables = containers(self.library.listed(names(wanted)), names(wanted))
        return *dumps, [(one.name, sorted(one.elements.items())) for one in tables]

    def _dump(self, what: int) -> list[bytes]:
        """Without the number of the generation, which is in the header."""
        answer = sockets.ask(
            self._socket, message(what, NLM_F_DUMP, struct.pack("=BBH", socket.AF_UNSPEC, 0, 0))
        )
        return [bytes(body[:2]) + bytes(body[4:]) for body in answer]


def rules(text: str, then: str = "") -> list[NftObject]:
    return rules_of("nftables", text, then)


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
def test_every_kind_of_service_is_the_same_to_the_byte(kind: str, detector: str) -> None:
    """Of both families, with pods, with more of them, with none, and gone again; nothing of it is left to the library."""
    options = f", {detector}" if detector else ""
    mode = f"kubeProxyMode: {{type: nftables{options}}}"
    small = DUAL.replace("ipFamily: dual", f"ipFamily: dual, {mode}") + deployment(replicas=2)
    ones = service(**KINDS[kind])
    states = [
        rules(small),
        rules(small + ones),
        rules(small + ones, deployment(replicas=5)),
        rules(small + ones, deployment(replicas=0)),
    ]
    by_words, by_messages = Side(), Side()
    for side in (by_words, by_messages):
        side.library.run(transaction([], states[0]))
    for old, new in zip(states, [*states[1:], states[0]], strict=True):
        text = transaction(old, new)
        by_words.library.run(text)
        known = nft_messages.transaction(text)
        assert known is not None, text
        assert by_messages.direct.apply(known)
        assert by_messages.has(new) == by_words.has(new)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.first_kernel)])
def test_many_changes_are_the_same_to_the_byte(seed: int) -> None:
    """One after the other, some of them by the library: who has changed what before makes no difference."""
    by_words, by_messages = Side(), Side()
    old: list[NftObject] = []
    counts = {True: 0, False: 0}
    for text in manifests("nftables,layout=faithful", seed):
        new = rules(text)
        words = transaction(old, new)
        old = new
        if not words:
            continue
        by_words.library.run(words)
        known = nft_messages.transaction(words)
        counts[known is not None] += 1
        if known is None or not by_messages.direct.apply(known):
            by_messages.library.run(words)
        assert by_messages.has(new) == by_words.has(new)
    assert min(counts.values()) > 2, "some by messages, some not"


def test_what_does_not_fit_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an ordinary user's lab: the kernel takes only so much at once."""
    wanted = rules(DUAL + deployment(replicas=3) + service())
    by_words, by_messages = Side(), Side()
    base = rules(DUAL)
    for side in (by_words, by_messages):
        side.library.run(transaction([], base))
    text = transaction(base, wanted)
    by_words.library.run(text)
    before = nftables.Generations().read()
    monkeypatch.setattr(nftables.NetlinkTransactions, "_buffer_capacity", lambda self, wanted: 1500)
    known = nft_messages.transaction(text)
    assert known is not None
    assert by_messages.direct.apply(known)
    assert by_messages.has(wanted) == by_words.has(wanted)
    assert nftables.Generations().read() > before + 1


def test_what_is_refused_is_said_in_words() -> None:
    """Messages that the kernel refuses change nothing; then the library says which line it was."""
    Side()
    here = nftables.open_here()
    here.run("add table ip kube-proxy\nadd chain ip kube-proxy there\n")
    before, generation = here.text(), nftables.Generations().read()
    text = "add chain ip kube-proxy good\nadd rule ip kube-proxy good jump nosuch\n"
    known = nft_messages.transaction(text)
    assert known is not None
    direct = nftables.NetlinkTransactions()
    assert not direct.apply(known)
    assert (here.text(), nftables.Generations().read()) == (before, generation)
    with pytest.raises(RulesError, match="add rule ip kube-proxy good jump nosuch"):
        here.run(text)
    assert (here.text(), nftables.Generations().read()) == (before, generation)
    direct.close()
    here.close()


def test_a_thousand_refusals_are_one_and_nobody_hears_of_them_later() -> None:
    """There is no room for an answer about each line; what is sent next is not judged by them, nor made twice."""
    Side()
    here = nftables.open_here()
    lines = "".join(
        f"add chain ip kube-proxy c{number}\nadd rule ip kube-proxy c{number} jump marked\n"
        for number in range(1000)
    )
    assert nft_messages.transaction(lines) is not None
    with pytest.raises(RulesError, match="No such file or directory"):
        here.run(lines)
    here.run("add table ip kube-proxy\nadd chain ip kube-proxy marked\n")
    here.run("add chain ip kube-proxy next\nadd rule ip kube-proxy next jump marked\n")
    assert here.text().count("jump marked") == 1
    here.close()


def test_more_elements_than_fit_are_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line has all that are new in a map; a message that does not fit by itself is refused, and said to be."""
    Side()
    here = nftables.open_here()
    here.run(
        "add table ip kube-proxy\nadd chain ip kube-proxy x\nadd map ip kube-proxy m { type ipv4_addr : verdict ; }\n"
    )
    items = ", ".join(f"10.0.{number // 250}.{number % 250} : goto x" for number in range(4000))
    text = f"add element ip kube-proxy m {{ {items} }}\n"
    monkeypatch.setattr(
        nftables.NetlinkTransactions, "_buffer_capacity", lambda self, wanted: 20_000
    )
    known = nft_messages.transaction(text)
    assert known is not None
    direct = nftables.NetlinkTransactions()
    assert direct.apply(known)
    assert here.text().count("goto x") == 4000
    monkeypatch.undo()
    direct._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    monkeypatch.setattr(
        nftables.NetlinkTransactions, "_buffer_capacity", lambda self, wanted: 1 << 30
    )
    assert not direct.apply(known), (
        "the kernel takes not so much at once, and nothing has been done"
    )
    direct.close()
    here.close()
