"""Run flanneld with etcd, and the CNI plugin `bridge`, in the nodes of a lab.

flanneld takes a node's range from the file subnet.env of an earlier run, as after a restart. The
CNI plugin `flannel` only writes a configuration for the plugin `bridge`; the same is done here,
because not every module proxy has it (flannel-io/cni-plugin, flannel_linux.go, doCmdAdd).
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from kubenetlab.datapath.cni.flannel import SUBNET_FILE
from tests.labs.kernel_listing import kernel_listing
from tests.labs.lab import Lab, wait_for
from tests.labs.small_cluster import NODES, PODS, manifest, pod_namespaces
from tests.patience import patiently
from tests.upstream.builder import build, unpack
from tests.upstream.comparison import Findings, Named, findings
from tests.upstream.plugins import MULTICAST, OF_EVERY_POD, PROTOCOL, run_plugin
from tests.upstream.processes import Processes
from tests.upstream.programs import ETCD, FLANNEL

_CONFIG_KEY: Final = "/coreos.com/network/config"
_SETTLED_S: Final = 8.0
"""Time for flanneld to add the routes to all nodes, in seconds."""
_PUT: Final = (
    "import sys, urllib.request as r; "
    "r.urlopen('http://127.0.0.1:2379/v3/kv/put', sys.stdin.buffer.read(), 5).read()"
)


NAMED: Final = (
    PROTOCOL,
    MULTICAST,
    *OF_EVERY_POD,
    Named(r"\[node control-plane\] .*\bcni0\b.*", "cni0 exists before the first pod of its node"),
)
_RANGES: Final = {"ipv4": "10.244.0.0/16", "ipv6": "fd00:10:244::/56"}


class Case(Struct, frozen=True):
    """Configuration of flannel, and the options of the CNI mode that stand for it."""

    backend: Mapping[str, Any]
    cni: str
    family: str = "ipv4"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        families = ("ipv4", "ipv6") if self.family == "dual" else (self.family,)
        return Network(self.backend, tuple(_RANGES[family] for family in families), self.options)


_DIRECT: Final = {"Type": "vxlan", "DirectRouting": True}
# flanneld with etcd does not reuse ranges of a cluster with IPv6 only.
CASES: Final = {
    "vxlan": Case({"Type": "vxlan"}, "flannel"),
    "vxlan, dual": Case({"Type": "vxlan"}, "flannel", "dual"),
    "vxlan, vni 300": Case(
        {"Type": "vxlan", "VNI": 300, "Port": 8473}, "{type: flannel, vni: 300, port: 8473}"
    ),
    "vxlan, direct": Case(_DIRECT, "{type: flannel, directRouting: true}", "dual"),
    "host-gw": Case({"Type": "host-gw"}, "{type: flannel, backend: host-gw}", "dual"),
}


SECOND_CASES: Final = {
    "wireguard": Case({"Type": "wireguard"}, "{type: flannel, backend: wireguard}", "dual"),
    "ipip": Case({"Type": "ipip"}, "{type: flannel, backend: ipip}"),
}
"""Cases that need the second kernel (`scripts/vm-test`)."""


def compare(case: Case, ours: Lab, theirs: Lab, folder: Path) -> Findings:
    """Compare a lab with the CNI mode `flannel` with a lab in which flanneld and `bridge` run.

    Both labs are made here. flanneld has no sign of having done all of its work, so the comparison
    is repeated until only named differences are left, or until the time is over.

    Raises NotAvailableError.
    """
    ours.up(manifest(case.cni, case.family))
    theirs.up(manifest("none", case.family, has_pods=False))
    with (
        running_flannel(theirs, case.network, folder) as check,
        pod_namespaces(theirs, ours) as namespaces,
    ):
        for pod, netns in namespaces.items():
            attach(theirs, theirs.place("nodes", PODS[pod]), netns, folder)
        expected = kernel_listing(ours.name) + _files(
            {name: ours.run("exec", f"node:{name}", "--", "cat", SUBNET_FILE).out for name in NODES}
        )
        written = _files({name: subnet_file(folder, name).read_text() for name in NODES})
        deadline = time.monotonic() + patiently(_SETTLED_S)
        while True:
            check()
            result = findings(expected, kernel_listing(theirs.name) + written, NAMED)
            if not result.unnamed or time.monotonic() > deadline:
                return result


class Network(Struct, frozen=True):
    """Configuration of flannel."""

    backend: Mapping[str, Any]
    ranges: tuple[str, ...]
    """Range of the pods of the cluster, for one or both families."""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        """Content of net-conf.json.

        SubnetMin: flannel leaves out the first range by default, which Kubernetes assigns.
        """
        document: dict[str, Any] = {
            "EnableIPv4": False,
            "EnableNFTables": True,
            **self.options,
            "Backend": self.backend,
        }
        for cidr in map(ipaddress.ip_network, self.ranges):
            prefix = "" if cidr.version == 4 else "IPv6"
            document |= {
                f"EnableIPv{cidr.version}": True,
                f"{prefix}Network": str(cidr),
                f"{prefix}SubnetMin": str(cidr[0]),
            }
        return document


@contextmanager
def running_flannel(lab: Lab, network: Network, folder: Path) -> Iterator[Callable[[], None]]:
    """Run etcd on the first node and flanneld on all; yield a check that all are running.

    Returns when each flanneld has written its subnet.env. Raises NotAvailableError.
    """
    flanneld, etcd = build(FLANNEL) / "flanneld", unpack(ETCD)
    nodes = lab.inspected["nodes"]
    with Processes(folder) as processes:
        address = nodes[0]["addresses"][0]
        store = f"http://[{address}]:2379" if ":" in address else f"http://{address}:2379"
        processes.start(
            "etcd",
            nodes[0],
            str(etcd),
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:2379,{store}",
            f"--advertise-client-urls={store}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            env={**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"},
        )
        wait_for(lambda: _put(nodes[0], network.document, processes), "etcd")
        for node in nodes:
            file = subnet_file(folder, node["name"])
            file.parent.mkdir()
            file.write_text(_former_lease(node, network))
            processes.start(
                f"flanneld-{node['name']}",
                node,
                str(flanneld),
                f"-etcd-endpoints={store}",
                "-iface=eth0",
                "-ip-masq",
                f"-subnet-file={file}",
                env={**os.environ, "WIREGUARD_KEY_FILE": str(file.with_name("wgkey"))},
            )

        def all_are_ready() -> bool:
            processes.check()
            return all(
                "FLANNEL_MTU" in subnet_file(folder, node["name"]).read_text() for node in nodes
            )

        wait_for(all_are_ready, "subnet.env of each flanneld", patiently(30))
        yield processes.check


def _files(contents: Mapping[str, str]) -> str:
    """Return an entry of a listing for the file subnet.env of each node."""
    return "".join(
        f"[node {name}]\nfile {SUBNET_FILE}\n{textwrap.indent(text, '  ')}"
        for name, text in contents.items()
    )


def subnet_file(folder: Path, node: str) -> Path:
    return folder / node / "subnet.env"


def attach(lab: Lab, node: Any, netns: str, folder: Path) -> None:
    """Attach a network namespace of /run/netns as a pod, as the CNI plugin `flannel` does."""
    env = dict(
        line.split("=", 1) for line in subnet_file(folder, node["name"]).read_text().splitlines()
    )
    prefixes = [prefix for prefix in ("FLANNEL_", "FLANNEL_IPV6_") if f"{prefix}SUBNET" in env]
    subnets = [ipaddress.ip_interface(env[f"{prefix}SUBNET"]).network for prefix in prefixes]
    plugin = {
        # Of kube-flannel.yml: the delegate's options.
        "hairpinMode": True,
        "isDefaultGateway": True,
        # Added by the plugin.
        "name": "cbr0",
        "type": "bridge",
        "ipMasq": env["FLANNEL_IPMASQ"] != "true",
        "mtu": int(env["FLANNEL_MTU"]),
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / node["name"]),
            "ranges": [[{"subnet": str(subnet)}] for subnet in subnets],
            "routes": [{"dst": env[f"{prefix}NETWORK"]} for prefix in prefixes],
        },
    }
    run_plugin(lab, node, netns, plugin)


def _former_lease(node: Any, network: Network) -> str:
    """Return the lines of subnet.env that a restarted flanneld reads."""
    lines = []
    for cidr, cluster in zip(node["pod_cidrs"], network.ranges, strict=True):
        pods = ipaddress.ip_network(cidr)
        prefix = "FLANNEL_" if pods.version == 4 else "FLANNEL_IPV6_"
        lines += [f"{prefix}NETWORK={cluster}", f"{prefix}SUBNET={pods[1]}/{pods.prefixlen}"]
    return "".join(f"{line}\n" for line in lines)


def _put(node: Any, document: Mapping[str, Any], processes: Processes) -> bool:
    """Write flannel's configuration to etcd by its JSON gateway; return False without answer."""
    processes.check()
    encoded = {
        key: base64.b64encode(text.encode()).decode()
        for key, text in (("key", _CONFIG_KEY), ("value", json.dumps(document)))
    }
    completed = subprocess.run(
        ("nsenter", f"--net={node['netns']}", sys.executable, "-c", _PUT),
        input=json.dumps(encoded).encode(),
        capture_output=True,
        timeout=patiently(10),
        check=False,
    )
    return completed.returncode == 0
