"""Kernel state that each CNI mode makes, as text: the golden files of the folder `kernel`.

`none.txt` is the state of the small cluster of tests/labs/small_cluster.py without a network. Each
other file has the entries that a mode adds to this state, by namespace, in dual stack. The cluster
has no kube-proxy, so all of them are the mode's.

The folder `second_kernel` has the same for modes that need WireGuard, ESP or ipip, as they are on
Debian's kernel. The state without a network is then read from a lab in the same run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kubenetlab.datapath.modes import known
from tests.labs.kernel_listing import kernel_listing, sections
from tests.labs.lab import Lab
from tests.labs.small_cluster import manifest
from tests.upstream.comparison import described

LISTINGS: Final = Path(__file__).with_name("kernel")
SECOND_LISTINGS: Final = Path(__file__).with_name("second_kernel")
NONE: Final = "none"
NETWORKS: Final = {
    **{name: name for name in known("cni") if name != NONE},
    "flannel-direct": "{type: flannel, directRouting: true}",
    "flannel-host-gw": "{type: flannel, backend: host-gw}",
    "calico-vxlan": "{type: calico, backend: vxlan}",
    "cilium-native": "{type: cilium, routingMode: native}",
}
"""Name of a golden file → CNI mode with options: each mode with its defaults, and variants."""
PASSWORD: Final = """\
---
apiVersion: v1
kind: Secret
metadata: {name: weave-passwd, namespace: kube-system}
stringData: {weave-passwd: correct horse battery}
"""
"""Secret for the tunnels of weave."""
SECOND_NETWORKS: Final = {
    "calico-ipip": "{type: calico, backend: ipip}",
    "calico-wireguard": "{type: calico, wireguard: true}",
    "cilium-wireguard": "{type: cilium, enableWireguard: true}",
    "flannel-wireguard": "{type: flannel, backend: wireguard}",
    "weave-password": "{type: weave, passwordSecret: weave-passwd}",
}
"""The same for golden files of the second kernel."""
_EBPF: Final = re.compile(r"(link \S+: cil_|cilium_).*")


def state_without_network(lab: Lab) -> str:
    """Return the listing of the cluster without a network."""
    lab.up(manifest(NONE, "dual", has_pods=False))
    return kernel_listing(lab.name)


def state(lab: Lab, name: str) -> str:
    """Make the cluster with a network; return what the mode adds to the state without a network."""
    lab.up(manifest(NETWORKS[name], "dual"))
    listing = kernel_listing(lab.name)
    if name == "conflist":
        listing = described(listing)  # plugins choose names and MACs at random
    without = (LISTINGS / f"{NONE}.txt").read_text()
    return "".join(f"{line}\n" for line in _added(listing, without, lab))


def second_state(lab: Lab, name: str, without_network: str) -> str:
    """Return the same for a mode that needs the second kernel.

    without_network: listing of the cluster without a network on this kernel.
    """
    lab.up(manifest(SECOND_NETWORKS[name], "dual") + PASSWORD)
    listing = kernel_listing(lab.name)
    return "".join(f"{line}\n" for line in _added(listing, without_network, lab))


def _added(listing: str, without_network: str, lab: Lab) -> Iterator[str]:
    without = sections(without_network)
    for place, entries in sections(listing).items():
        kind, _, name = place.partition(" ")
        before = Counter(without.get(place, ()))
        yield f"[{place}]"
        for entry in entries:
            if before[entry]:
                before[entry] -= 1
            else:
                yield entry
        yield from (f"without: {entry}" for entry in before.elements())
        if kind == "node":
            lines = lab.run("inspect", f"node:{name}").out.splitlines()
            yield from (line for line in lines if _EBPF.fullmatch(line))
        yield ""
