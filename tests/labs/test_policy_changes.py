"""Changes of network policies while datagrams and connections arrive without a pause.

The packets that count were sent after the change: those that arrive afterwards may have been sent
before. Every datagram is new to connection tracking, and so is every connection.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kubenetlab.lab.client import Client
from kubenetlab.lab.paths import LAB_API
from tests.clusters import DUAL, pod, replaced
from tests.labs.conftest import new_lab
from tests.labs.datagram_streams import Stream, streaming
from tests.labs.lab import Lab
from tests.labs.test_pod_networks import require
from tests.patience import patiently

IN_FORCE_WITHIN_S = patiently(0.2)
"""Time after the reply of the API in which a change has to be in force on all nodes, in seconds.

On an idle machine it is in force after 50 ms (bench/policies); the streams of packets load it.
"""
BEFORE_S, AFTER_S = 0.05, 0.2
"""Time for which packets are sent before a change, and after it."""

TEAM = """\
apiVersion: v1
kind: Namespace
metadata: {name: team, labels: {team: a}}
---
"""
CLIENT = pod("client", meta=", namespace: team, labels: {role: friend}", spec=", nodeName: worker2")
WEB = pod("web", meta=", labels: {app: web}", spec=", nodeName: worker")
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: a}}
      podSelector: {matchLabels: {role: friend}}
---
"""
SHUT = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: shut}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {team: a}}}
  egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]
---
"""
CHANGES = {
    "policy of the destination": replaced(POLICY, ("role: friend", "role: boss")),
    "policy of the source": replaced(
        POLICY,
        ("name: web}", "name: shut-in, namespace: team}"),
        ("app: web", "role: friend"),
        ("ingress:\n  - from:", "policyTypes: [Egress]\n  egress:\n  - to:"),
    ),
    "policy of a tier": SHUT,
    "label of a pod": replaced(CLIENT, ("role: friend", "role: stranger")),
    "label of a namespace": replaced(TEAM, ("team: a", "team: b")),
}
"""Changes after which `client` does not reach `web` any more."""

ENGINES = {
    "nftables": ("--policy", "nftables"),
    "iptables": ("--policy", "iptables"),
    "ebpf": ("--cni", "cilium", "--policy", "ebpf"),
}
"""Policy engine → options of `up`."""


@pytest.fixture(scope="module", params=ENGINES)
def enforcing(request: pytest.FixtureRequest) -> Iterator[Lab]:
    options = ENGINES[request.param]
    require("cilium" if request.param == "ebpf" else "bridge")
    for lab in new_lab():
        lab.up(DUAL + TEAM + CLIENT + WEB + POLICY, *options)
        yield lab


@pytest.fixture
def streams(enforcing: Lab) -> Iterator[list[Stream]]:
    """Yield streams of datagrams and connections from `client` to `web`, of both IP versions."""
    lab = enforcing
    lab.apply(TEAM + CLIENT + WEB + POLICY)
    client, web = lab.pod("client", "team"), lab.pod("web")
    four, six = web["addresses"]
    with (
        streaming(client, web, six) as datagrams,
        streaming(client, web, four, tcp=True) as connections,
    ):
        every = [datagrams, connections]
        go_on(every, BEFORE_S)
        yield every
    restore(lab)


def restore(lab: Lab) -> None:
    """Delete the policies of the changes, as far as they exist."""
    lab.run("delete", "netpol", "shut-in", "-n", "team", status=None)
    lab.run("delete", "clusternetworkpolicy", "shut", status=None)


def go_on(streams: list[Stream], seconds: float) -> None:
    for stream in streams:
        stream.go_on(seconds)


def assert_denied(streams: list[Stream], moment: float, within_s: float) -> None:
    """Check that packets passed before a moment, and none that was sent later than a time after it.

    moment: by the monotonic clock, in seconds.
    """
    for stream in streams:
        stream.end()
        assert stream.passed_at
        assert min(stream.passed_at) < moment * 1e9
        assert [late for late in stream.passed_after(moment) if late > within_s] == []


@pytest.mark.parametrize("change", CHANGES)
def test_no_packet_passes_after_apply_has_returned(
    enforcing: Lab, streams: list[Stream], change: str
) -> None:
    """`apply` waits until the kernel of every node has the change."""
    enforcing.apply(CHANGES[change])
    returned_at = time.monotonic()
    go_on(streams, AFTER_S)
    assert_denied(streams, returned_at, 0)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_in_force_soon_after_the_reply_of_the_api(
    enforcing: Lab, streams: list[Stream], change: str
) -> None:
    """The API replies when the change is stored."""
    documents = list(filter(None, yaml.safe_load_all(CHANGES[change])))
    Client(enforcing.name).post(f"{LAB_API}/apply", {"documents": documents})
    returned_at = time.monotonic()
    go_on(streams, AFTER_S + IN_FORCE_WITHIN_S)
    assert_denied(streams, returned_at, IN_FORCE_WITHIN_S)


REMAINING = "in the lab, but not in these manifests"
POLICIES = {
    "shop.yaml": (
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, "
        "metadata: {name: quiet, namespace: shop}, spec: {podSelector: {}}}\n---\n"
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n"
    ),
    "all.yaml": (
        "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, "
        "metadata: {name: ops}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}}\n"
    ),
}


def test_up_names_policies_that_its_manifests_lack(lab: Lab, tmp_path: Path) -> None:
    """The command in the note deletes the policy. Other uses of `up` and `apply` say nothing."""
    (tmp_path / "lab.yaml").write_text(WEB)
    for name, text in POLICIES.items():
        (tmp_path / name).write_text(text)
    folder, policy = str(tmp_path), tmp_path / "all.yaml"
    lab.run("up", "-f", folder)
    assert REMAINING not in lab.run("up", "-f", folder).err
    for words in (("up", "-f", str(policy)), ("apply", "-f", folder), ("up", "--drift", "keep")):
        assert REMAINING not in lab.run(*words).err
    (tmp_path / "shop.yaml").unlink()
    note = lab.run("up", "-f", folder).err
    assert f"note: {REMAINING}: NetworkPolicy shop/quiet; to delete it: kubenetlab delete " in note
    policy.unlink()
    several = lab.run("up", "-f", folder).err
    assert (
        f"{REMAINING}: NetworkPolicy shop/quiet, ClusterNetworkPolicy ops; to delete the first: "
        in several
    )
    for _ in POLICIES:
        (line,) = [line for line in note.splitlines() if REMAINING in line]
        command = line.rpartition("kubenetlab ")[2].split(" --lab ")[0]
        lab.run(*command.split())
        note = lab.run("up", "-f", folder).err
    assert REMAINING not in note
