"""Facts about pods for the plugins that ask for them."""

from __future__ import annotations

import pytest

from kubenetlab.cni import capabilities
from kubenetlab.cni.capabilities import BandwidthError, PodDns, PodSandbox, PortMapping


def test_every_capability_of_a_pod() -> None:
    """The shapes are those of the conventions of CNI, and of containerd."""
    pod = PodSandbox(
        "abc",
        "/proc/5/ns/net",
        annotations={
            "kubernetes.io/ingress-bandwidth": "10M",
            "kubernetes.io/egress-bandwidth": "1.5k",
        },
        port_mappings=(
            PortMapping(8080, 80),
            PortMapping(53, 5353, "udp", "127.0.0.1"),
        ),
        ips=("10.1.0.7",),
        mac="0a:00:00:00:00:07",
        dns=PodDns(("10.96.0.10",), ("a.example",)),
        pod_cidrs=("10.244.1.0/24", "fd00::/64"),
    )
    values = capabilities.capability_arguments(pod)
    assert values.pop("io.kubernetes.cri.pod-annotations") == dict(pod.annotations)
    assert values == {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "127.0.0.1"},
        ],
        "bandwidth": {
            "ingressRate": 10_000_000,
            "ingressBurst": 4294967295,
            "egressRate": 1500,
            "egressBurst": 4294967295,
        },
        "ips": ["10.1.0.7"],
        "mac": "0a:00:00:00:00:07",
        "dns": {"servers": ["10.96.0.10"], "searches": ["a.example"]},
        "ipRanges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00::/64"}]],
    }


def test_a_pod_without_wishes_has_no_values() -> None:
    """Nothing is passed that does not apply."""
    assert capabilities.capability_arguments(PodSandbox("abc", "")) == {}


def test_a_plugin_gets_what_it_has_asked_for() -> None:
    """A capability without a value is left out."""
    values = {"mac": "x", "ips": ["y"]}
    assert capabilities.runtime_config(("ips", "portMappings"), values) == {"ips": ["y"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", 'kubernetes.io/egress-bandwidth: expected a rate such as 10M, found "fast"'),
        ("500", "resource is unreasonably small (< 1kbit): 500"),
        ("2P", "resource is unreasonably large (> 1Pbit): 2P"),
        ("-5M", "unreasonably small"),
    ],
)
def test_rates_have_limits(text: str, message: str) -> None:
    """The kubelet's limits and words."""
    with pytest.raises(BandwidthError) as raised:
        capabilities.bandwidth({"kubernetes.io/egress-bandwidth": text})
    assert message in str(raised.value)


def test_arguments_name_the_pod() -> None:
    """Plugins such as Multus and Calico's read the pod's name from CNI_ARGS."""
    pod = PodSandbox("abc", "", "default", "web-1", "uid-1")
    assert pod.arguments == (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", "default"),
        ("K8S_POD_NAME", "web-1"),
        ("K8S_POD_INFRA_CONTAINER_ID", "abc"),
        ("K8S_POD_UID", "uid-1"),
    )
    assert PodSandbox("abc", "").arguments == ()
