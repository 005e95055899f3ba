"""kube-proxy's mode ipvs: objects of a Service, and the input of ipset and IPVS."""

from __future__ import annotations

import pytest

from kubenetlab.datapath.modes import PodNetwork
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy.ipvs import DEVICE, Mode
from kubenetlab.datapath.proxy.ipvs_rules import set_name
from kubenetlab.datapath.services.view import ServiceView, service_views
from kubenetlab.datapath.view import Family, NodePlace
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import Changes, diff
from kubenetlab.hoststate.links.dummy import Dummy
from kubenetlab.hoststate.rules import ipset, ipvs
from kubenetlab.hoststate.rules.ipset import Member, Set
from kubenetlab.hoststate.rules.ipvs import (
    ListedServer,
    RealServer,
    VirtualServer,
    decode_changes,
    with_removals,
)
from kubenetlab.hoststate.rules.rulesets import NodeRules, RuleSet, RuleT, SubjectRules
from kubenetlab.hoststate.rules.transactions import steps
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.versioned import VersionedMap
from tests.clusters import deployment, running, store

NETWORK = PodNetwork(1500, ("10.244.0.0/16",))
PLACE = NodePlace("worker", (Family("172.18.0.3", "10.244.1.0/24"),))
WEB = deployment(replicas=2)


def views(spec: str) -> ServiceView:
    """Return the Service `web` of a running lab with additional fields in its spec."""
    head = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
    text = f"{head}spec: {{selector: {{app: web}}, {spec}}}\n"
    return next(
        view
        for view in service_views(running(store(WEB + text)), PlanCache()).values()
        if view.service.name == "web"
    )


def parts(spec: str, mode: Mode = Mode(), place: NodePlace = PLACE) -> list[str]:
    """Return all objects of the Service as text without its cluster IP."""
    view = views(spec)
    found = [
        part
        for one in mode.service(view, place, NETWORK)
        for part in ((*one.objects, *one.shared) if isinstance(one, SubjectRules) else (one,))
    ]
    return [str(part).replace(view.service.cluster_ips[0], "VIP") for part in found]


def test_a_service_is_virtual_servers_members_and_addresses() -> None:
    """It has no rule of its own."""
    found = parts("ports: [{port: 80}]")
    assert "ipvs -t VIP:80 -s rr" in found
    assert "ipset KUBE-CLUSTER-IP member VIP,tcp:80" in found
    assert "ipset KUBE-IPVS-IPS member VIP" in found
    assert [line for line in found if line.startswith("address")] == [
        f"address VIP/32 dev {DEVICE} scope link"
    ]
    assert len([line for line in found if " -r 10.244." in line]) == 2
    assert not [line for line in found if "iptables" in line]


def test_a_node_port_is_a_virtual_server_at_each_of_the_nodes_addresses() -> None:
    """These are the addresses of the link and of the bridge, or those in the given ranges."""
    spec = "type: NodePort, ports: [{port: 80, nodePort: 30080}]"
    found = parts(spec)
    assert {"ipvs -t 172.18.0.3:30080 -s rr", "ipvs -t 10.244.1.1:30080 -s rr"} <= set(found)
    assert "ipset KUBE-NODE-PORT-TCP member 30080" in found
    found = parts(spec, Mode(node_port_addresses=("172.18.0.0/16",)))
    assert "ipvs -t 10.244.1.1:30080 -s rr" not in found
    assert "ipvs -t 172.18.0.3:30080 -s rr" in found


def test_a_service_without_node_ports_is_the_same_on_all_nodes() -> None:
    """Its rules contain no node address, whatever nodePortAddresses is."""
    spec = "ports: [{port: 80}]"
    assert parts(spec, Mode(node_port_addresses=("primary",)), NodePlace()) == parts(spec)


def test_sctp_node_ports_are_in_a_set_of_addresses_and_ports() -> None:
    """Upstream has no bitmap for them."""
    found = parts("type: NodePort, ports: [{port: 80, nodePort: 30080, protocol: SCTP}]")
    assert "ipset KUBE-NODE-PORT-SCTP-HASH member 172.18.0.3,sctp:30080" in found
    assert "ipvs --sctp-service 172.18.0.3:30080 -s rr" in found


@pytest.mark.parametrize(
    ("mode", "spec", "expected"),
    [
        (Mode(scheduler="lc"), "ports: [{port: 80}]", "ipvs -t VIP:80 -s lc"),
        (Mode(scheduler="mh"), "ports: [{port: 80}]", "ipvs -t VIP:80 -s mh -b mh-port"),
        (Mode(), "sessionAffinity: ClientIP, ports: [{port: 80}]", "ipvs -t VIP:80 -s rr -p 10800"),
    ],
)
def test_schedulers_and_affinity(mode: Mode, spec: str, expected: str) -> None:
    assert expected in parts(spec, mode)


def test_a_policy_local_without_an_endpoint_drops() -> None:
    """A rule drops the packets, and no virtual server rejects them.

    External addresses still lead to all endpoints.
    """
    nowhere = NodePlace("control-plane", (Family("172.18.0.2", "10.244.0.0/24"),))
    found = parts("internalTrafficPolicy: Local, ports: [{port: 80}]", place=nowhere)
    assert not [line for line in found if line.startswith("ipvs")]
    (rule,) = (line for line in found if "iptables" in line)
    assert rule.endswith("-d VIP --dport 80 -j DROP")
    assert "-A KUBE-PROXY-FIREWALL" in rule
    found = parts(
        "type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]",
        place=nowhere,
    )
    assert len([line for line in found if line.startswith("ipvs -t 172.18.0.2:30080 -r ")]) == 2
    assert "ipset KUBE-NODE-PORT-LOCAL-TCP member 30080" in found


def test_names_of_sets_fit() -> None:
    """IPv6 sets have a 6 in their names, which are cut to the kernel's limit."""
    assert set_name(4, "CLUSTER-IP") == "KUBE-CLUSTER-IP"
    assert set_name(6, "CLUSTER-IP") == "KUBE-6-CLUSTER-IP"
    assert set_name(6, "LOAD-BALANCER-SOURCE-CIDR") == "KUBE-6-LOAD-BALANCER-SOURCE-CID"


SET = Set("n", "KUBE-A", "hash:ip family inet")


def bundle(name: str, *objects: RuleT) -> NodeRules[RuleT]:
    return bundled(SubjectRules(objects[0].backend, "ip", name, (), objects))


def bundled(*rules: SubjectRules[RuleT]) -> NodeRules[RuleT]:
    return NodeRules("n", RuleSet(rules[0].backend, VersionedMap((one.key, one) for one in rules)))


def test_a_shared_member_stays_until_its_last_service_is_deleted() -> None:
    """Two Services may have the same external address."""
    shared, own = Member("", "KUBE-A", "192.0.2.1"), Member("", "KUBE-A", "10.96.0.9")
    one, other = (
        SubjectRules("ipset", "ip", name, (), members)
        for name, members in (("one", (shared, own)), ("other", (shared,)))
    )
    before, after = bundled(one, other), bundled(other)
    words = ipset.decode_restore(ipset.update([SET, before], [SET, after])).text
    assert words == "del -exist KUBE-A 10.96.0.9\n"
    assert ipset.update([SET, before], []) == ""
    cleanup = ipset.cleanup([SET, before], [], anew=False)
    assert ipset.decode_restore(cleanup).destroyed == ("KUBE-A",)


def test_a_set_is_swapped_when_it_is_rebuilt() -> None:
    """The new set is filled beside the old one, so lookups never see an empty set."""
    lines = ipset.decode_restore(
        ipset.replacement([SET, bundle("one", Member("", "KUBE-A", "10.96.0.9"))])
    ).text.splitlines()
    assert lines == [
        "create -exist KUBE-A hash:ip family inet",
        "create -exist NEW-A hash:ip family inet",
        "flush NEW-A",
        "add NEW-A 10.96.0.9",
        "swap NEW-A KUBE-A",
        "destroy NEW-A",
    ]


def test_a_rejected_line_names_its_member() -> None:
    one = bundle("one", member := Member("", "KUBE-A", "10.96.0.9"))
    assert ipset.failed_object("ipset restore: no\nadd -exist KUBE-A 10.96.0.9", [one]) == (
        member,
        one,
    )
    assert ipset.failed_object("ipset restore: no\ncreate KUBE-A hash:ip family inet", [SET]) == (
        SET,
        SET,
    )
    assert ipset.failed_object("the program failed without a message", [SET, one]) is None


SERVER = VirtualServer("", "tcp", "10.96.0.9", 80, "rr")
REALS = [RealServer("", "tcp", "10.96.0.9", 80, f"10.244.1.{last}", 8080) for last in (2, 3)]


def test_real_servers_are_deleted_alone_or_with_their_virtual_server() -> None:
    both: list[ipvs.IpvsRules] = [bundle("web", SERVER, *REALS)]
    one: list[ipvs.IpvsRules] = [bundle("web", SERVER, REALS[0])]
    fewer = decode_changes(ipvs.update(both, one))
    assert ([str(real) for real in fewer.leaving], fewer.gone) == ([str(REALS[1])], ())
    none = decode_changes(ipvs.update(both, []))
    assert (none.leaving, [str(server) for server in none.gone]) == ((), [str(SERVER)])
    assert ipvs.update(both, both) == ""


def test_a_rebuild_changes_only_differences() -> None:
    """Correct objects are not touched."""
    other = VirtualServer("", "udp", "10.96.0.10", 53, "rr")
    there = [ListedServer(SERVER, tuple((real, 1, 0) for real in REALS)), ListedServer(other, ())]
    orders = with_removals(
        decode_changes(ipvs.replacement([bundle("web", SERVER, REALS[0])])), there
    )
    assert (orders.leaving, orders.gone) == ((REALS[1],), (other,))


def test_rules_are_deleted_before_the_sets_they_use() -> None:
    """They are added after the sets."""
    from kubenetlab.hoststate.rules.iptables import IptablesChain

    chain = IptablesChain("n", "ip", "filter", "KUBE-A", ("-m set --match-set KUBE-A dst -j DROP",))
    objects = [SET, chain, bundle("web", SERVER)]
    assert [step.backend for step in steps([], objects, {}, anew=False)] == [
        "ipset",
        "iptables",
        "ipvs",
    ]
    assert [step.backend for step in steps(objects, [], {}, anew=False)] == [
        "ipvs",
        "iptables",
        "ipset",
    ]


def test_service_addresses_are_no_source_addresses() -> None:
    """Packets of the node have the node's own address."""
    found = [
        one
        for one in Mode().service(views("ports: [{port: 80}]"), PLACE, NETWORK)
        if isinstance(one, Address)
    ]
    assert [one.is_source for one in found] == [False]


def test_addresses_are_deleted_after_the_rules_that_use_them() -> None:
    """So is their device. An address without rules is deleted at once."""
    dummy, address = Dummy("n", DEVICE, "0a:58:00:00:00:01"), Address("n", DEVICE, "10.96.0.9/32")
    link = Address("n", "eth0", "172.18.0.3/16")
    there = HostState({"n": contents_of([Sandbox("n", "n"), dummy, address, link])})
    early, late = diff(
        there, HostState({"n": contents_of([Sandbox("n", "n")])})
    ).split_around_rules()
    assert [str(operation.object) for operation in early.operations()] == [str(link)]
    assert [operation.object for operation in late.operations()] == [address, dummy]
    changes = diff(there, HostState({"n": contents_of([Sandbox("n", "n"), dummy, link])}))
    assert changes.split_around_rules() == (changes, Changes(()))
