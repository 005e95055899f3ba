"""Encryption of tunnels with a password: keys of pairs of nodes, and nothing without the Secret."""

from __future__ import annotations

import base64

import pytest

from kubenetlab.api.lab import LabSecret
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.datapath.network.esp import derived_key, master_key, spi_of
from kubenetlab.diagnostics import CREDENTIAL_MISSING, UNREACHABLE_PODS, diagnose
from kubenetlab.hoststate.encryption.xfrm import XfrmPolicy, XfrmState
from kubenetlab.hoststate.fdb import FdbEntry
from kubenetlab.hoststate.links.bridge import Bridge
from kubenetlab.hoststate.links.vxlan import Vxlan
from kubenetlab.hoststate.secret import Secret
from kubenetlab.hoststate.state import HostState
from tests.clusters import ONLINK, applied, settled, store
from tests.unit.datapath.plans import objects_of

PASSWORD = "correct horse"
NODES = ("control-plane", "worker", "worker2")


def document(options: str = "", family: str = "ipv4", fabric: str = "{}") -> str:
    """Return a Cluster document with the mode weave and a Secret's name."""
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{ipFamily: {family}, cni: {{type: weave, passwordSecret: weave-passwd"
        f"{options}}}}}\nfabric: {fabric}\n---\n"
    )


def secret(password: str = PASSWORD, key: str = "weave-passwd") -> str:
    return (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: weave-passwd, namespace: kube-system}\n"
        f'stringData: {{{key}: "{password}"}}\n---\n'
    )


def planned(cluster: Cluster, seed: str = "") -> HostState:
    """Return the plan of a lab with this seed."""
    return plan(cluster.with_changes([LabSecret(seed=seed)]), ONLINK)


def states(state: HostState, node: str) -> dict[tuple[str, str], tuple[int, bytes]]:
    """Return (source, destination) → (SPI, key) of the states of a node."""
    return {
        (obj.source, obj.destination): (obj.spi, obj.secret.reveal)
        for obj in objects_of(state, f"node/{node}", XfrmState)
    }


def test_keys_are_expanded_as_openssl_does_it() -> None:
    """`openssl kdf -kdfopt mode:EXPAND_ONLY … HKDF` printed this key."""
    key = derived_key(Secret(bytes(range(32))), "a", "b").reveal
    assert key.hex() == ("d0b4fa8d02216f08f26d369faf14f2caa2e12620c2b9b9e2949ac65d15ffe7c16b193316")


def test_the_password_and_the_seed_of_the_lab_decide() -> None:
    masters = {
        master_key(Secret(password), Secret(seed)).reveal
        for password in (b"one", b"two")
        for seed in (b"", b"one", b"two")
    }
    assert len(masters) == 6


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "dual"])
def test_each_pair_and_direction_has_a_key_which_both_nodes_know(family: str) -> None:
    """The sender has a policy for it; the receiver has one for all that comes in."""
    state = planned(store(document(family=family) + secret()))
    by_node = {node: states(state, node) for node in NODES}
    assert all(len(entries) == 4 for entries in by_node.values())
    everything = {ends: entry for entries in by_node.values() for ends, entry in entries.items()}
    assert len(everything) == len({key for _, key in everything.values()}) == 6
    for entries in by_node.values():
        assert all(everything[ends] == entry for ends, entry in entries.items())
        assert all(len(key) == 36 and spi > 255 for spi, key in entries.values())
    for node, entries in by_node.items():
        policies = objects_of(state, f"node/{node}", XfrmPolicy)
        (inbound,) = (policy for policy in policies if policy.is_inbound)
        outbound = [policy for policy in policies if not policy.is_inbound]
        assert {(policy.ip_protocol, policy.port) for policy in policies} == {(17, 6784)}
        own = inbound.destination.partition("/")[0]
        assert {(policy.source, policy.destination.partition("/")[0]) for policy in outbound} == {
            (inbound.destination, destination) for source, destination in entries if source == own
        }
        assert {policy.spi for policy in outbound} == {spi_of(node)}


def test_nothing_is_sent_before_its_policy_exists() -> None:
    """Objects are created in this order: states, policies, and the entries that use a tunnel."""
    contents = planned(store(document() + secret()))["node/worker"].values()
    kinds = [type(obj) for obj in contents if isinstance(obj, XfrmState | XfrmPolicy | FdbEntry)]
    assert list(dict.fromkeys(kinds)) == [XfrmState, XfrmPolicy, FdbEntry]


@pytest.mark.parametrize("text", ["", secret(key="other"), secret(password="")])
def test_without_a_password_there_are_no_tunnels(text: str) -> None:
    """A diagnostic says so, and commands end with status 1; the Secret puts it right."""
    cluster = store(document() + text)
    state = planned(cluster)
    for kind in (XfrmState, XfrmPolicy, FdbEntry):
        assert objects_of(state, "node/worker", kind) == []
    assert objects_of(state, "node/worker", Vxlan)
    (diagnostic,) = (entry for entry in diagnose(cluster) if entry.code == CREDENTIAL_MISSING)
    assert CREDENTIAL_MISSING in UNREACHABLE_PODS
    assert "expected a Secret kube-system/weave-passwd" in diagnostic.message
    cluster = settled(applied(cluster, secret()))
    assert objects_of(planned(cluster), "node/worker", FdbEntry)
    assert CREDENTIAL_MISSING not in {entry.code for entry in diagnose(cluster)}


def test_the_seed_and_the_password_change_all_keys_and_no_spi() -> None:
    cluster = store(document() + secret())
    before = states(planned(cluster, "11" * 32), "worker")
    assert states(planned(cluster, "11" * 32), "worker") == before
    changed = applied(cluster, secret("another"))
    for after in (
        states(planned(cluster, "22" * 32), "worker"),
        states(planned(changed, "11" * 32), "worker"),
    ):
        assert {ends: spi for ends, (spi, _) in after.items()} == {
            ends: spi for ends, (spi, _) in before.items()
        }
        assert not {key for _, key in after.values()} & {key for _, key in before.values()}


def test_neither_password_nor_keys_are_in_a_plan() -> None:
    state = planned(store(document() + secret()), "11" * 32)
    shown = "".join(
        f"{obj}{obj!r}" for contents in state.namespaces.values() for obj in contents.values()
    )
    secrets = [key for node in NODES for _, key in states(state, node).values()]
    for value in (PASSWORD.encode(), *secrets):
        for text in (value.hex(), repr(value), base64.b64encode(value).decode()):
            assert text not in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize(
    ("options", "family", "fabric", "mtu"),
    [
        ("", "ipv4", "{}", 1376),
        (", mtu: 1450", "ipv4", "{}", 1500 - 50 - 37),
        (", mtu: 1450", "ipv6", "{}", 1500 - 70 - 37),
        (", mtu: 8900", "ipv4", "{links: [{mtu: 9000}]}", 8900),
        ("", "ipv4", "{links: [{mtu: 1400}]}", 1400 - 50 - 37),
    ],
)
def test_encrypted_packets_are_not_fragmented(
    options: str, family: str, fabric: str, mtu: int
) -> None:
    """The MTU leaves room for the headers of VXLAN and of ESP."""
    state = planned(store(document(options, family, fabric) + secret()))
    (bridge,) = objects_of(state, "node/worker", Bridge)
    (tunnel,) = objects_of(state, "node/worker", Vxlan)
    assert (bridge.mtu, tunnel.mtu) == (mtu, mtu)
