"""conflist: real CNI plugins attach the pods.

The programs named in a configuration list (bridge, ptp, macvlan, portmap …) run on each node as a
container runtime runs them: ADD when a pod's sandbox exists, DEL before it is removed, with the
environment, the input and the results of libcni. Pods have the addresses that the plugins answer.
The lab adds no link of its own to a pod.

    pod eth0 ── made by the plugins ── node eth0 ── fabric

A program runs in the network of its node. It sees the machine's files read-only; the node's own are
/etc/cni/net.d with the list, and /var/lib/cni with what plugins keep. A call that takes longer than
`timeout` is ended. While ADD fails, the pod stays ContainerCreating, with the plugin's message in
the event FailedCreatePodSandBox. Plugins of a list from version 1.1.0 are asked for their STATUS
every 5 seconds: while one of them answers with an error, its node is NotReady with the plugin's
message, and no pod is attached there.

The same list serves all nodes: write `{{.PodCIDR}}` (or `usePodCidr`, or the capability ipRanges)
where a node's own range belongs. Other nodes' pods are then reached by plain routes, which a
cluster's administrator, cloud or daemon would add.

Overhead: that of the plugins.
Needs: the programs, for example the package containernetworking-plugins.
As in: containerd and CRI-O with a file in /etc/cni/net.d.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final, Literal, Self

from msgspec import Meta, structs

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.json_types import JsonObject, JsonValue
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.masquerade import MasqueradeConfig
from kubenetlab.api.text.decode import Finding
from kubenetlab.cni import conflist, templates
from kubenetlab.cni.calls import NodePlugins
from kubenetlab.datapath.modes import LabSize, ModeOptions, Needs, Neighbors, PodNetwork
from kubenetlab.datapath.network import egress
from kubenetlab.datapath.view import NodeView
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.sandbox import Sysctl

DEFAULT_LIST = """{
  "cniVersion": "1.0.0",
  "name": "containerd-net",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
        "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"""  # noqa: E501
"""The list that containerd's documentation gives, without masquerade, as a template."""
DIRECTORY = "/etc/cni/net.d"
"""Directory of the list on each node."""
DIRECTORIES = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
"""Directories of plugins by default: those of upstream, of Debian, and of Fedora."""


_BESIDE_THE_NODE: Final = ("macvlan", "ipvlan", "vlan", "host-device", "sriov")
"""Plugins whose links connect pods with a network without the node's netfilter."""


class Mode(ModeOptions, frozen=True):
    """Options.

    file: path of a configuration list on the command line
        `up` and `plan` read it once, and the lab keeps its content.

    conflist: the configuration list itself, as a mapping or as text
        Without it, and without `file`: bridge with host-local, then portmap.

    binDirs: directories of the programs (/opt/cni/bin, /usr/lib/cni, /usr/libexec/cni).

    routes: auto | podCIDR | none
        podCIDR  Each node has a route to the pod range of every other node, and ip-masq-agent
                 masquerades what leaves the cluster.
        none     The plugins connect the nodes, if anything does.
        auto     podCIDR if the list depends on the pod range of the node, else none.

    timeout: time limit of each call of a plugin, in seconds (30).
    """

    needs = Needs(programs=("nft",), features=("veth", "nft nat"))
    _facts: ClassVar = NetworkFacts(
        plugin="conflist", host_ifname="", ipam="external", has_gateway=False
    )

    file_options: ClassVar[Mapping[str, str]] = {"file": "conflist"}

    file: str = ""
    conflist: JsonValue = ""
    bin_dirs: tuple[str, ...] = DIRECTORIES
    routes: Literal["auto", "podCIDR", "none"] = "auto"
    timeout: Annotated[int, Meta(ge=1, le=600)] = 30

    @property
    def requirements(self) -> Needs:
        network, _ = conflist.load(templates.sample(self.configuration))
        names = network.program_names if network is not None else ()
        return structs.replace(self.needs, plugins=dict.fromkeys(names, self.bin_dirs))

    @property
    def facts(self) -> NetworkFacts:
        network, _ = conflist.load(templates.sample(self.configuration))
        gets_requests = network is not None and "ips" in network.capabilities
        return structs.replace(
            self._facts,
            has_requests_of_ranges=gets_requests and templates.uses_pod_cidr(self.configuration),
        )

    @property
    def configuration(self) -> JsonValue:
        """The list, or text that is a template of it, before a node's values are filled in."""
        return self.conflist or DEFAULT_LIST

    @property
    def needs_one_segment(self) -> bool:
        return self._has_routes

    @property
    def _has_routes(self) -> bool:
        """True if the lab adds the routes between nodes, also before `decide`."""
        if self.routes == "auto":
            return templates.uses_pod_cidr(self.configuration)
        return self.routes == "podCIDR"

    def findings(self) -> Iterator[Finding]:
        if self.file:
            message = "a file is read from the command line only; in a manifest, set `conflist`"
            yield Finding(("file",), message)
        if error := templates.check(self.configuration):
            yield Finding(("conflist",), error)
            return
        _, findings = conflist.load(templates.sample(self.configuration))
        for finding in findings:
            yield structs.replace(finding, path=("conflist", *finding.path))
        for index, directory in enumerate(self.bin_dirs):
            if not directory.startswith("/"):
                message = f'expected an absolute path, found "{directory}"'
                yield Finding(("binDirs", index), message)

    def config_findings(self, config: ClusterConfig) -> Iterator[Finding]:
        """Yield why nodes of this cluster cannot have the list: it needs other IP versions."""
        try:
            versions = config.networking.versions
        except ValueError:
            return  # the validation of podSubnet reports it
        path = ("networking", "cni", "conflist")
        if error := templates.check(self.configuration, versions):
            yield Finding(path, error)
            return
        network, findings = conflist.load(templates.sample(self.configuration, versions))
        for finding in findings if network is None else ():
            yield structs.replace(finding, path=(*path, *finding.path))

    def decide(self, lab: LabSize, settled: Self | None) -> tuple[Self, tuple[str, ...]]:
        network, _ = conflist.load(templates.sample(self.configuration))
        programs = ", ".join(network.program_names) if network is not None else ""
        reasons = [f"CNI plugins {programs} attach the pods"]
        if self.bin_dirs != DIRECTORIES:
            reasons[0] += f": programs of {', '.join(self.bin_dirs)}"
        if self.routes != "auto":
            return self, tuple(reasons)
        reasons.append(
            "routes between the nodes' pod ranges: the list uses them"
            if self._has_routes
            else "no routes between nodes: the list does not use their pod ranges"
        )
        if not lab.has_br_netfilter and network is not None and "bridge" in network.program_names:
            reasons.append(
                "this kernel has no br_netfilter, so a Service does not work from a pod to another"
                " one on the same bridge"
            )
        return structs.replace(self, routes="podCIDR" if self._has_routes else "none"), tuple(
            reasons
        )

    def netfilter_bypass(self, *, has_br_netfilter: bool) -> str:
        network, _ = conflist.load(templates.sample(self.configuration))
        programs = network.program_names if network is not None else ()
        if "bridge" in programs and not has_br_netfilter:
            return "pods share a bridge, and this kernel has no br_netfilter"
        beside = next((name for name in programs if name in _BESIDE_THE_NODE), "")
        return f"links of the plugin {beside} lead past the node" if beside else ""

    @property
    def desired_neighbors(self) -> Neighbors:
        """The plugins add no permanent entries, so nodes and pods learn each other's."""
        return "dynamic"

    def network(self, node: NodeView) -> PodNetwork:
        return PodNetwork(node.mtu, node.cluster_cidrs, maps_host_ports=False)

    def masquerade(self, node: NodeView, config: MasqueradeConfig | None) -> Iterator[Object]:
        return egress.rules(node, config) if self._has_routes else iter(())

    def plugins(self, node: NodeView) -> NodePlugins | None:
        return NodePlugins(self._document(node), self.bin_dirs, float(self.timeout))

    def _document(self, node: NodeView) -> JsonObject:
        """Return the list with the values of a node."""
        values = templates.NodeValues(tuple(family.pod_cidr for family in node.families))
        document: JsonObject = templates.render(self.configuration, values)
        return document

    def node(self, node: NodeView) -> Iterator[Object]:
        document = self._document(node)
        yield File(
            node.netns,
            f"{DIRECTORY}/10-{document['name']}.conflist",
            json.dumps(document, indent=2) + "\n",
        )
        # As the administrator of a cluster sets it: kube-proxy needs it where pods share a bridge.
        yield Sysctl(node.netns, "net/bridge/bridge-nf-call-iptables", "1", is_optional=True)
        if node.has_ipv6:
            # Links of plugins get link-local addresses from the kernel. Without one, it cannot ask
            # for the MAC address of a pod on behalf of packets that it forwards.
            yield Sysctl(node.netns, "net/ipv6/conf/default/addr_gen_mode", "0")
        if not self._has_routes:
            return
        for peer in node.peers:
            for family in peer.families if node.is_on_link(peer) else ():
                yield Route(node.netns, family.pod_cidr, names.NODE_UPLINK, via=family.address)
