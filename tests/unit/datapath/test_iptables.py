"""kube-proxy's mode iptables: names, probabilities, and the input of iptables-restore."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.datapath.proxy import iptables as proxy
from kubenetlab.datapath.proxy import iptables_names
from kubenetlab.datapath.proxy.local_traffic import Detector
from kubenetlab.datapath.proxy.services import EndpointAddress, PortView
from kubenetlab.hoststate.rules.iptables import (
    ChainEntry,
    IptablesChain,
    IptablesObject,
    Jump,
    decode_restores,
    failed_object,
    update,
)
from kubenetlab.hoststate.rules.iptables_save import empty_tables, parse, replacement_input
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleSet, SubjectRules
from kubenetlab.versioned import VersionedMap

DETECTOR = Detector(4, "10.244.0.0/16")
PORT = PortView(
    "ns1", "svc1", "p80", "tcp", "172.30.0.41", 80, (EndpointAddress("10.180.0.1", 80),)
)


def test_names_are_those_of_kube_proxy() -> None:
    """Names equal those in kube-proxy's proxier_test.go."""
    assert iptables_names.service_chain(PORT) == "KUBE-SVC-XPGD46QRK7WJZT7O"
    assert (
        iptables_names.endpoint_chain(PORT, PORT.cluster_endpoints[0])
        == "KUBE-SEP-SXIVWICOYRO3J4NJ"
    )


@given(st.integers(1, 40))
def test_each_endpoint_has_the_same_share(count: int) -> None:
    """With n endpoints left, a rule matches one nth, and the last rule matches the rest."""
    endpoints = tuple(EndpointAddress(f"10.0.0.{number + 1}", 80) for number in range(count))
    (chain,) = [
        obj
        for obj in proxy._PortRules(
            "ip", PortView("n", "s", "", "tcp", "10.96.0.9", 80, endpoints), DETECTOR, ""
        ).all()
        if isinstance(obj, IptablesChain) and obj.name.startswith("KUBE-SVC-")
    ]
    left = 1.0
    for rule in chain.rules[1:]:
        probability = (
            float(rule.partition("--probability ")[2].split()[0])
            if "--probability" in rule
            else 1.0
        )
        assert abs(left * probability - 1 / count) < 1e-6
        left *= 1 - probability
    assert left == 0.0


def entries(*names: str) -> NodeRules[IptablesObject]:
    """Return one chain per subject, and a rule that jumps to each."""
    own = (
        SubjectRules[IptablesObject](
            "iptables",
            "ip",
            name,
            (
                ChainEntry("", "ip", "nat", "KUBE-SERVICES", f"-j {name}"),
                IptablesChain("", "ip", "nat", name),
            ),
        )
        for name in names
    )
    return NodeRules("n", RuleSet("iptables", VersionedMap((one.key, one) for one in own)))


def test_entries_come_before_the_chains_own_rules() -> None:
    """They are sorted, whatever the order of the subjects.

    A deleted subject takes its chain with it.
    """
    shared = IptablesChain("n", "ip", "nat", "KUBE-SERVICES", ("-j LAST",))
    (made,) = decode_restores(update([], [shared, entries("KUBE-B", "KUBE-A")]))
    assert made.text.splitlines() == [
        "*nat",
        ":KUBE-A - [0:0]",
        ":KUBE-B - [0:0]",
        ":KUBE-SERVICES - [0:0]",
        "-A KUBE-SERVICES -j KUBE-A",
        "-A KUBE-SERVICES -j KUBE-B",
        "-A KUBE-SERVICES -j LAST",
        "COMMIT",
    ]
    (changed,) = decode_restores(
        update([shared, entries("KUBE-A", "KUBE-B")], [shared, entries("KUBE-B")])
    )
    assert changed.text.splitlines() == [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-A - [0:0]",
        "-A KUBE-SERVICES -j KUBE-B",
        "-A KUBE-SERVICES -j LAST",
        "-X KUBE-A",
        "COMMIT",
    ]
    assert not changed.is_last


def test_jumps_are_added_and_deleted_one_by_one() -> None:
    """They are inserted in front of existing rules, in their own order."""
    chain, *jumps = (
        IptablesChain("n", "ip", "nat", "KUBE-A"),
        *(Jump("n", "ip", "nat", "OUTPUT", f"-m mark --mark {n} -j KUBE-A") for n in (1, 2)),
    )
    (made,) = decode_restores(update([], [chain, *jumps]))
    assert [line for line in made.text.splitlines() if line.startswith("-I")] == [
        f"-I OUTPUT {jumps[1].rule}",
        f"-I OUTPUT {jumps[0].rule}",
    ]
    (gone,) = decode_restores(update([chain, *jumps], []))
    assert gone.is_last
    assert "-D OUTPUT -m mark --mark 1 -j KUBE-A" in gone.text


SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-OLD - [0:0]
:THEIRS - [0:0]
-A PREROUTING -m comment --comment "a b" -j KUBE-SERVICES
-A PREROUTING -j THEIRS
-A THEIRS -g KUBE-OLD
COMMIT
*filter
:INPUT ACCEPT [0:0]
COMMIT
"""


def test_own_chains_are_found_by_their_prefix() -> None:
    assert replacement_input(SAVED, "", ["KUBE-"]).splitlines() == [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-OLD - [0:0]",
        '-D PREROUTING -m comment --comment "a b" -j KUBE-SERVICES',
        "-D THEIRS -g KUBE-OLD",
        "-X KUBE-SERVICES",
        "-X KUBE-OLD",
        "COMMIT",
    ]
    assert parse(SAVED)["nat", "PREROUTING"] == [
        '-m comment --comment "a b" -j KUBE-SERVICES',
        "-j THEIRS",
    ]
    assert empty_tables(SAVED) == ["filter"]


def test_chains_and_jumps_are_replaced_in_one_transaction() -> None:
    """A packet in between would pass no rule."""
    text = (
        "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j RETURN\n"
        "-I PREROUTING -j KUBE-SERVICES\nCOMMIT\n*filter\n:KUBE-NEW - [0:0]\nCOMMIT\n"
    )
    assert replacement_input(SAVED, text, ["KUBE-"]).splitlines() == [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-OLD - [0:0]",
        '-D PREROUTING -m comment --comment "a b" -j KUBE-SERVICES',
        "-D THEIRS -g KUBE-OLD",
        "-A KUBE-SERVICES -j RETURN",
        "-I PREROUTING -j KUBE-SERVICES",
        "-X KUBE-OLD",
        "COMMIT",
        "*filter",
        ":KUBE-NEW - [0:0]",
        "COMMIT",
    ]


def test_a_rejected_line_names_its_chain() -> None:
    bundle = entries("KUBE-A")
    said = "iptables-restore: Chain 'X' does not exist\n*nat\n-A KUBE-A -j X"
    assert failed_object(said, [bundle]) == (bundle.parts[1], bundle)
    assert failed_object("iptables-restore: Permission denied", [bundle]) is None
