"""Local traffic: the rules of each kube-proxy mode for `detectLocalMode` and `detectLocal`."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.datapath import plan
from kubenetlab.datapath.modes import try_load
from kubenetlab.errors import ManifestError
from kubenetlab.hoststate.rules.bpf import BpfPrograms
from kubenetlab.hoststate.rules.rulesets import members
from tests.clusters import ONLINK, deployment, running, service, store

DETECTORS = {
    "ClusterCIDR": ("ip saddr 10.244.0.0/16", "-s 10.244.0.0/16"),
    "NodeCIDR": ("ip saddr 10.244.1.0/24", "-s 10.244.1.0/24"),
    "BridgeInterface, detectLocal: {bridgeInterface: cbr0}": ('iifname "cbr0"', "-i cbr0"),
    "InterfaceNamePrefix, detectLocal: {interfaceNamePrefix: veth}": (
        'iifname "veth*"',
        "-i veth+",
    ),
    "none": ("", ""),
}
"""Options → match in nft and in iptables syntax on `worker`, whose range is 10.244.1.0/24."""
CASES = list(DETECTORS)


def lines_of(proxy: str, options: str, *, layout: str = "") -> list[str]:
    """Return the rules on `worker` for a Service with a cluster IP and a Local node port."""
    mode = f"kubeProxyMode: {{type: {proxy}, detectLocalMode: {options}{layout}}}"
    config = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{{mode}}}\n---\n"
    text = (
        config
        + deployment()
        + service(type="NodePort", externalTrafficPolicy="Local")
        + service("open").replace("app: open", "app: web")
    )
    objects = plan(running(store(text)), ONLINK)["node/worker"].values()
    found: list[Any] = list(members(obj for obj in objects if hasattr(obj, "backend")))
    lines = []
    for obj in found:
        rules = [str(getattr(rule, "text", rule)) for rule in getattr(obj, "rules", ())] or [
            getattr(obj, "rule", "")
        ]
        lines += [
            f"{getattr(obj, 'name', getattr(obj, 'chain', ''))} {rule}" for rule in rules if rule
        ]
    return lines


def inverted(match: str) -> str:
    """Return the inverted match in nft syntax."""
    *words, value = match.split(" ")
    return " ".join((*words, "!=", value))


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("layout", ["faithful", "fast"])
def test_nftables_matches_local_traffic(options: str, layout: str) -> None:
    """Other traffic to a cluster IP is marked; local traffic to a Local node port goes anywhere."""
    lines = lines_of("nftables", options, layout=f", layout: {layout}")
    match = DETECTORS[options][0]
    marked = [
        line
        for line in lines
        if line.endswith("jump mark-for-masquerade") and line.startswith(("service-", "lb-"))
    ]
    shortened = [
        line
        for line in lines
        if line.startswith("external-") and " goto service-" in line and "fib saddr" not in line
    ]
    assert all(f"{inverted(match)} jump" in line for line in marked)
    assert (bool(marked), len(shortened)) == (bool(match), bool(match))
    assert all(f" {match} goto service-" in line for line in shortened)


@pytest.mark.parametrize("options", CASES)
def test_iptables_matches_local_traffic(options: str) -> None:
    """The same in iptables syntax."""
    lines = lines_of("iptables", options)
    match = DETECTORS[options][1]
    marked = [
        line
        for line in lines
        if line.startswith("KUBE-SVC-") and line.endswith("-j KUBE-MARK-MASQ")
    ]
    shortened = [
        line for line in lines if line.startswith("KUBE-EXT-") and "pod traffic for" in line
    ]
    assert [line for line in marked if f" ! {match} -j" not in line] == []
    assert (bool(marked), len(shortened)) == (bool(match), bool(match))
    assert all(f'" {match} -j KUBE-SVC-' in line for line in shortened)


@pytest.mark.parametrize("options", CASES)
def test_ipvs_matches_local_traffic(options: str) -> None:
    """One rule matches the set of cluster IPs; without a detector it matches it as the source."""
    (line,) = [
        line
        for line in lines_of("ipvs", options)
        if "KUBE-CLUSTER-IP" in line and line.endswith("-j KUBE-MARK-MASQ")
    ]
    match = DETECTORS[options][1]
    assert line.endswith(
        f"KUBE-CLUSTER-IP dst,dst ! {match} -j KUBE-MARK-MASQ"
        if match
        else "KUBE-CLUSTER-IP src,dst -j KUBE-MARK-MASQ"
    )


@pytest.mark.parametrize(
    ("options", "local"),
    [
        ("ClusterCIDR", "10.244.0.0/16"),
        ("NodeCIDR", "10.244.1.0/24"),
        ("BridgeInterface, detectLocal: {bridgeInterface: cbr0}", "10.244.1.0/24"),
        ("BridgeInterface, detectLocal: {bridgeInterface: docker0}", ""),
        ("InterfaceNamePrefix, detectLocal: {interfaceNamePrefix: veth}", "10.244.1.0/24"),
        ("InterfaceNamePrefix, detectLocal: {interfaceNamePrefix: cali}", ""),
        ("none", None),
    ],
)
def test_ebpf_compares_addresses(options: str, local: str | None) -> None:
    """Packets from a pod's link are recognised by their address in the node's range."""
    config = f"kubeProxyMode: {{type: ebpf, detectLocalMode: {options}}}"
    text = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{{config}}}\n---\n"
    (programs,) = (
        obj
        for obj in plan(running(store(text)), ONLINK)["node/worker"].values()
        if isinstance(obj, BpfPrograms)
    )
    assert [one.local_cidr for one in programs.ranges] == [local]


def test_every_node_has_its_own_range() -> None:
    """With NodeCIDR no two nodes have the same rules, in both families."""
    mode = "kubeProxyMode: {type: nftables, detectLocalMode: NodeCIDR}"
    text = (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{ipFamily: dual, "
        f"{mode}}}\n---\n"
    )
    text += deployment() + service(ipFamilyPolicy="RequireDualStack")
    state = plan(running(store(text)), ONLINK)
    expected = {
        "control-plane": {"10.244.0.0/24", "fd00:10:244::/64"},
        "worker": {"10.244.1.0/24", "fd00:10:244:1::/64"},
        "worker2": {"10.244.2.0/24", "fd00:10:244:2::/64"},
    }
    found: dict[str, set[str]] = {}
    for node in expected:
        objects: list[Any] = list(
            members(obj for obj in state[f"node/{node}"].values() if hasattr(obj, "backend"))
        )
        texts = [getattr(rule, "text", "") for obj in objects for rule in getattr(obj, "rules", ())]
        found[node] = {
            text.split("saddr != ")[1].split()[0] for text in texts if "saddr != " in text
        }
    assert found == expected


@pytest.mark.parametrize("proxy", ["nftables", "iptables", "ipvs", "ebpf"])
@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        (
            {"detectLocalMode": "BridgeInterface"},
            "detectLocal.bridgeInterface",
            "required with detectLocalMode BridgeInterface",
        ),
        (
            {"detectLocalMode": "InterfaceNamePrefix"},
            "detectLocal.interfaceNamePrefix",
            "required with detectLocalMode InterfaceNamePrefix",
        ),
        (
            {"detectLocal": {"bridgeInterface": "cbr0"}},
            "detectLocal.bridgeInterface",
            "has no effect with detectLocalMode ClusterCIDR; it belongs to BridgeInterface",
        ),
        (
            {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": 'a" drop'}},
            "detectLocal.bridgeInterface",
            "expected the name of an interface",
        ),
        (
            {
                "detectLocalMode": "InterfaceNamePrefix",
                "detectLocal": {"interfaceNamePrefix": "x" * 16},
            },
            "detectLocal.interfaceNamePrefix",
            "expected the name of an interface",
        ),
        ({"detectLocalMode": "clusterCIDR"}, "detectLocalMode", "expected one of"),
    ],
)
def test_wrong_options_are_refused(
    proxy: str, options: dict[str, Any], path: str, message: str
) -> None:
    """Every mode refuses them and names the field."""
    mode, (finding,) = try_load("proxy", proxy, options)
    assert mode is None
    assert (".".join(map(str, finding.path)), finding.message[: len(message)]) == (
        f"networking.kubeProxyMode.{path}",
        message,
    )


def test_a_wrong_option_names_its_line() -> None:
    """The line is that of the Cluster document."""
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking:\n  kubeProxyMode:\n   "
        " type: nftables\n    detectLocalMode: BridgeInterface\n"
    )
    with pytest.raises(ManifestError) as error:
        store(text)
    assert str(error.value).startswith(
        "test.yaml:4  Cluster: networking.kubeProxyMode.detectLocal.bridgeInterface: required"
    )
