"""Programs of upstream that are built or unpacked for comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import structs

from tests.upstream.builder import DebianPackage, GoModule

FLANNEL: Final = GoModule(
    "flannel",
    "github.com/flannel-io/flannel",
    "v0.28.10",
    {"flanneld": "."},
    # Not every module proxy has the modules of a cloud provider's backend; the backend `udp` needs
    # a C compiler. flanneld is built without the two backends; all else is unchanged.
    replaced={
        "pkg/backend/tencentvpc/tencentvpc.go": "package tencentvpc\n",
        "pkg/backend/udp/udp_amd64.go": "package udp\n",
        "pkg/backend/udp/udp_network_amd64.go": "package udp\n",
    },
)
CNI_PLUGINS: Final = GoModule(
    "cni-plugins",
    "github.com/containernetworking/plugins",
    "v1.9.1",
    {
        "bridge": "plugins/main/bridge",
        "ptp": "plugins/main/ptp",
        "macvlan": "plugins/main/macvlan",
        "loopback": "plugins/main/loopback",
        "host-local": "plugins/ipam/host-local",
        "portmap": "plugins/meta/portmap",
        "bandwidth": "plugins/meta/bandwidth",
        "firewall": "plugins/meta/firewall",
        "tuning": "plugins/meta/tuning",
    },
)
MORE_CNI_PLUGINS: Final = structs.replace(
    CNI_PLUGINS,
    name="more-cni-plugins",
    packages={
        "ipvlan": "plugins/main/ipvlan",
        "vlan": "plugins/main/vlan",
        "static": "plugins/ipam/static",
        "sbr": "plugins/meta/sbr",
        "vrf": "plugins/meta/vrf",
    },
)
"""Plugins that no CNI mode resembles; the mode conflist runs them."""
POLICY_ASSISTANT: Final = GoModule(
    "policy-assistant",
    "sigs.k8s.io/network-policy-api/cmd/policy-assistant",
    "v0.0.0-20260701122014-0eec1b0e5fa9",
    {"policy-assistant": "cmd/policy-assistant"},
    # Its own command prints tables. The program that replaces it answers in JSON.
    replaced={
        "cmd/policy-assistant/main.go": Path(__file__).with_name("policy_assistant.go").read_text()
    },
)
"""Evaluator of NetworkPolicies and AdminNetworkPolicies in the project that defines the latter."""
CYCLONUS: Final = GoModule(
    "cyclonus",
    "github.com/mattfenwick/cyclonus",
    "v0.5.6",
    {"cyclonus": "cmd/cyclonus"},
    # Its own command needs a cluster. The program that replaces it only evaluates policies.
    replaced={"cmd/cyclonus/main.go": Path(__file__).with_name("cyclonus.go").read_text()},
)
"""Evaluator of NetworkPolicies in a project that tests CNI plugins."""
ETCD: Final = DebianPackage("etcd-server", "usr/bin/etcd")

MODULES: Final = {module.name: module for module in (FLANNEL, CNI_PLUGINS, MORE_CNI_PLUGINS)}
