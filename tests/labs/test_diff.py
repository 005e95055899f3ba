"""`diff` after edits of the kernel state.

One edit is one line, with the desired and the observed entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from kubenetlab.hoststate.rules.bpf_entries import ENDPOINT
from kubenetlab.kernel.rules.libbpf import Libbpf, LoadedPrograms
from tests.clusters import deployment, service
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for
from tests.labs.lab_view import PROXY_MODES

MANIFEST = deployment(replicas=2, nodeName="worker2") + service()
CLEAN = "the kernel is as it should be"


def lab_of(mode: str) -> Iterator[Lab]:
    """Yield a lab of a kube-proxy mode.

    Edits of the kernel state stay until the next `up`.
    """
    if mode not in PROXY_MODES:
        pytest.skip(
            f"the mode {mode} is not available here; `kubenetlab doctor` says what is missing"
        )
    for lab in new_lab():
        lab.up(MANIFEST, "--proxy", mode, "--drift", "keep")
        yield lab


@pytest.fixture(scope="module")
def by_nftables() -> Iterator[Lab]:
    yield from lab_of("nftables")


@pytest.fixture(scope="module")
def by_iptables() -> Iterator[Lab]:
    yield from lab_of("iptables")


@pytest.fixture(scope="module")
def by_ebpf() -> Iterator[Lab]:
    yield from lab_of("ebpf")


@contextmanager
def restored(lab: Lab) -> Iterator[None]:
    """Check that the kernel is as desired before an edit, and again after the next `up`."""
    assert lab.run("diff").out.strip() == CLEAN
    yield
    lab.run("up")
    assert lab.run("diff").out.strip() == CLEAN


def differences(lab: Lab) -> list[Any]:
    """Return the differences of `diff -o json` on the node `worker`, where the edits are.

    The exit status is 1, and the text output agrees.
    """
    (changes,) = lab.run("diff", "-o", "json", status=1).json["changes"]
    assert changes["netns"] == "node/worker"
    assert changes["operations"] == [difference["line"] for difference in changes["differences"]]
    output = lab.run("diff", status=1).out.splitlines()
    assert output[0] == "node/worker"
    assert [line.strip() for line in output[1:-2]] == changes["operations"]
    assert {meaning[0] for meaning in output[-1].split("  ")} == {
        line[0] for line in changes["operations"]
    }
    return list(changes["differences"])


def worker(lab: Lab, *command: str, stdin: str | None = None) -> str:
    """Run a program in the network of the node `worker`."""
    return lab.inside(lab.place("nodes", "worker"), *command, stdin=stdin)


def nft_handle(lab: Lab, chain: str, text: str) -> str:
    """Return the handle of the first rule that contains a text."""
    listing = worker(
        lab, "nft", "--handle", "list", "chain", "ip", "kube-proxy", chain
    ).splitlines()
    return next(line for line in listing if text in line).rpartition("# handle ")[2]


def test_a_changed_verdict_is_shown_before_and_after(by_nftables: Lab) -> None:
    """The number and the comments of the rules do not change.

    The difference is shown as a line and in its fields.
    """
    lab, chain = by_nftables, "cluster-ips-check"
    rule = 'ip daddr 10.96.0.0/16 {} comment "Drop traffic to unallocated ClusterIPs"'
    with restored(lab):
        worker(
            lab,
            "nft",
            f"replace rule ip kube-proxy {chain} handle {nft_handle(lab, chain, 'drop')} "
            f"{rule.format('accept')}",
        )
        assert differences(lab) == [
            {
                "line": f"~ nft rule ip kube-proxy {chain}: {rule.format('drop')}    "
                f"(was: {rule.format('accept')})",
                "action": "change",
                "object": f"nft chain ip kube-proxy {chain}",
                "desired": rule.format("drop"),
                "observed": rule.format("accept"),
                "desired_rule": 2,
                "observed_rule": 2,
            }
        ]


def test_a_rule_out_of_order_is_one_difference(by_nftables: Lab) -> None:
    lab, chain, rule = by_nftables, "masquerading", "meta mark & 0x00004000 == 0x00000000 return"
    with restored(lab):
        handle = nft_handle(lab, chain, "return")
        worker(
            lab,
            "nft",
            f"delete rule ip kube-proxy {chain} handle {handle}; "
            f"add rule ip kube-proxy {chain} {rule}",
        )
        (difference,) = differences(lab)
        assert (difference["action"], difference["desired"], difference["observed"]) == (
            "move",
            rule,
            rule,
        )
        assert (difference["desired_rule"], difference["observed_rule"]) == (1, 3)
        assert (
            difference["line"]
            == f"~ nft rule ip kube-proxy {chain}: {rule}    (moved: rule 1, was: rule 3)"
        )


def test_additional_rules_elements_and_chains_are_shown(by_nftables: Lab) -> None:
    """An added chain is one line; `-o wide` also shows its rules."""
    lab = by_nftables
    with restored(lab):
        worker(
            lab,
            "nft",
            "insert rule ip kube-proxy services counter drop; "
            "add element ip kube-proxy cluster-ips { 10.96.9.9 }; "
            "delete element ip kube-proxy cluster-ips { 10.96.0.10 }; "
            "add chain ip kube-proxy mine; "
            "add rule ip kube-proxy mine ip saddr 192.0.2.1 accept",
        )
        assert sorted(difference["line"] for difference in differences(lab)) == [
            "+ nft element ip kube-proxy cluster-ips { 10.96.0.10 }",
            "- nft chain ip kube-proxy mine: 1 rule",
            "- nft element ip kube-proxy cluster-ips { 10.96.9.9 }",
            "- nft rule ip kube-proxy services: counter drop",
        ]
        output = lab.run("diff", "-o", "wide", status=1).out.splitlines()
        assert (
            output[output.index("  - nft chain ip kube-proxy mine: 1 rule") + 1].strip()
            == "ip saddr 192.0.2.1 accept"
        )


def test_a_link_removed_from_its_bridge_is_shown_without_a_bridge(by_nftables: Lab) -> None:
    """The observed state of a port without a bridge says so."""
    with restored(by_nftables):
        worker(by_nftables, "ip", "link", "set", "veth0", "nomaster")
        (port,) = (
            difference["line"]
            for difference in differences(by_nftables)
            if " port veth0 " in difference["line"]
        )
        assert port.startswith("~ port veth0 of cbr0 ")
        assert "(was: port veth0 of no bridge " in port


def test_traces_of_packets_are_no_difference(by_nftables: Lab) -> None:
    """Clients remembered by session affinity and counters are ignored."""
    lab = by_nftables
    lab.apply(service("sticky", sessionAffinity="ClientIP").replace("app: sticky", "app: web"))
    address = lab.service("sticky")["cluster_ips"][0]
    node = lab.place("nodes", "worker")
    wait_for(lambda: lab.ask(node, ("TCP", address, 80))[0].server, "an answer")
    assert "expires" in worker(lab, "nft", "list", "table", "ip", "kube-proxy")
    assert lab.run("diff").out.strip() == CLEAN
    lab.run("delete", "service", "sticky")


def test_the_log_names_repaired_rules(by_nftables: Lab) -> None:
    """The rule appears with its text, as `diff` showed it."""
    lab, log, rule = (
        by_nftables,
        by_nftables.directory / "log",
        "ip daddr 192.0.2.77 counter accept",
    )
    lab.run("up", "--drift", "repair")

    def is_logged() -> bool:
        """Add the rule until the repair is logged; on a busy machine a repair may not be logged."""
        worker(lab, "nft", f"insert rule ip kube-proxy services {rule}")
        wait_for(
            lambda: (
                rule
                not in worker(
                    lab, "nft", "--stateless", "list", "chain", "ip", "kube-proxy", "services"
                )
            ),
            "the repair",
        )
        return (
            "node/worker: another process changed the rules: "
            f"- nft rule ip kube-proxy services: {rule}\n" in log.read_text()
        )

    wait_for(is_logged, "a log entry for the rule")
    lab.run("up", "--drift", "keep")


def test_a_replaced_iptables_rule_is_one_line(by_iptables: Lab) -> None:
    """The line has the comment of the desired rule, with those of the rules around it."""
    lab = by_iptables
    rules = worker(lab, "iptables", "-t", "nat", "-S", "KUBE-SERVICES").splitlines()[1:]
    number, rule = next(
        (number, rule) for number, rule in enumerate(rules, 1) if "default/web cluster IP" in rule
    )
    rule = rule.removeprefix("-A KUBE-SERVICES ")
    edited = f"{rule.rpartition(' -j ')[0]} -j ACCEPT"
    with restored(lab):
        worker(
            lab,
            "iptables-restore",
            "--noflush",
            stdin=f"*nat\n-R KUBE-SERVICES {number} {edited}\nCOMMIT\n",
        )
        (difference,) = differences(lab)
        assert difference["line"] == f"~ iptables rule nat KUBE-SERVICES: {rule}    (was: {edited})"
        assert (difference["object"], difference["desired"], difference["observed"]) == (
            "iptables chain nat KUBE-SERVICES",
            rule,
            edited,
        )


@pytest.mark.parametrize(
    ("restore", "expected"),
    [
        ("-I KUBE-POSTROUTING 2 -j RETURN", "- iptables rule nat KUBE-POSTROUTING: -j RETURN"),
        (
            "-D KUBE-POSTROUTING 1\n-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "~ iptables rule nat KUBE-POSTROUTING: -m mark ! --mark 0x4000/0x4000 -j RETURN    "
            "(moved: rule 1, was: rule 3)",
        ),
        (
            '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            "+ iptables rule nat PREROUTING: "
            '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        ),
        (":KUBE-MINE - [0:0]\n-A KUBE-MINE -j RETURN", "- iptables chain nat KUBE-MINE: 1 rule"),
    ],
    ids=["additional rule", "order", "jump", "additional chain"],
)
def test_iptables_chains_are_compared_rule_by_rule(
    by_iptables: Lab, restore: str, expected: str
) -> None:
    with restored(by_iptables):
        worker(by_iptables, "iptables-restore", "--noflush", stdin=f"*nat\n{restore}\nCOMMIT\n")
        assert [difference["line"] for difference in differences(by_iptables)] == [expected]


def test_iptables_rules_of_others_are_no_difference(by_iptables: Lab) -> None:
    with restored(by_iptables):
        restore = "*filter\n:MINE - [0:0]\n-I FORWARD -j MINE\n-A MINE -j RETURN\nCOMMIT\n"
        worker(by_iptables, "iptables-restore", "--noflush", stdin=restore)
        assert by_iptables.run("diff").out.strip() == CLEAN


@pytest.mark.parametrize("mode", ["by_nftables", "by_iptables"])
def test_outdated_chains_of_a_stale_node_are_shown(
    mode: str, request: pytest.FixtureRequest
) -> None:
    """A stale kube-proxy keeps the chains of a deleted endpoint.

    Chains of other Services are no difference.
    """
    lab: Lab = request.getfixturevalue(mode)
    lab.run("break", "kube-proxy", "--node", "worker", "--how", "stale")
    before = {pod["name"]: pod["addresses"][0] for pod in lab.pods("web")}
    lab.run("scale", "deployment", "web", "--replicas", "1")
    wait_for(lambda: len(lab.pods("web")) == 1, "one pod")
    (address,) = {address for name, address in before.items() if name != lab.pod("web")["name"]}
    lines = [difference["line"] for difference in differences(lab)]
    chains = [line for line in lines if line.startswith(("- nft chain", "- iptables chain"))]
    rules = [line for line in lines if " rule " in line]
    assert len(chains) == 1
    assert rules
    assert set(lines) == {*chains, *rules}
    assert any(address in line.partition("(was:")[2] or line.startswith("-") for line in rules)
    lab.run("heal")
    lab.run("scale", "deployment", "web", "--replicas", "2")
    wait_for(lambda: sum(pod["ready"] for pod in lab.pods("web")) == 2, "two pods")
    assert lab.run("diff").out.strip() == CLEAN


@contextmanager
def maps(lab: Lab) -> Iterator[LoadedPrograms]:
    """Yield the maps of the eBPF programs on the node `worker`."""
    filters = json.loads(worker(lab, "tc", "-j", "filter", "show", "dev", "eth0", "ingress"))
    (program_id,) = (
        program_filter["options"]["prog"]["id"]
        for program_filter in filters
        if "options" in program_filter
    )
    with closing(Libbpf().open_loaded({"coming": program_id})) as loaded:
        yield loaded


def test_a_changed_map_value_is_shown_before_and_after(by_ebpf: Lab) -> None:
    """The edits are: another port of an endpoint, a removed entry, an added entry."""
    lab = by_ebpf
    with restored(lab), maps(lab) as loaded:
        key, value = next(
            (key, value)
            for key, value in loaded.entries("endpoints")
            if ENDPOINT.unpack(value)[1] == b"\x1f\x90"
        )
        loaded.set("endpoints", key, value[:16] + b"\x1f\x91" + value[18:])
        (difference,) = differences(lab)
        assert difference["action"] == "change"
        assert difference["object"] == "bpf map endpoints"
        assert difference["desired"].endswith(" 8080")
        assert difference["observed"] == difference["desired"][:-1] + "1"
        assert (
            difference["line"]
            == f"~ bpf map endpoints: {difference['desired']}    (was: {difference['observed']})"
        )
    with restored(lab), maps(lab) as loaded:
        key, value = next(iter(loaded.entries("fronts")))
        loaded.delete("fronts", key)
        loaded.set("doors", bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 9)), b"\1")
        removed, added = sorted(
            differences(lab), key=lambda difference: str(difference["action"]), reverse=True
        )
        assert (removed["line"], removed["object"]) == (
            "- bpf map doors: node ports at 192.0.2.9",
            "bpf map doors",
        )
        assert (added["action"], added["object"]) == ("add", "bpf map fronts")


def test_rules_that_cannot_be_compared_are_no_success(by_iptables: Lab) -> None:
    """A rule that only nft can read hides its table from iptables.

    `diff` says so instead of reporting every chain as missing.
    """
    lab = by_iptables
    with restored(lab):
        worker(
            lab,
            "nft",
            "add rule ip nat PREROUTING numgen random mod 2 vmap "
            "{ 0 : accept, 1 : accept } comment mine",
        )
        (difference,) = differences(lab)
        assert (difference["action"], difference["object"]) == ("unknown", "iptables rules")
        assert "Table `nat' is incompatible" in difference["line"]
        (handle,) = re.findall(
            r"mine.* # handle (\d+)",
            worker(lab, "nft", "--handle", "list", "chain", "ip", "nat", "PREROUTING"),
        )
        worker(lab, "nft", f"delete rule ip nat PREROUTING handle {handle}")


def test_outdated_map_entries_of_a_stale_node_are_shown(by_ebpf: Lab) -> None:
    """The frontend of a Service has one endpoint too many; the Service is named in the entry."""
    lab = by_ebpf
    with restored(lab):
        lab.run("break", "kube-proxy", "--node", "worker", "--how", "stale")
        before = {pod["name"]: pod["addresses"][0] for pod in lab.pods("web")}
        lab.run("scale", "deployment", "web", "--replicas", "1")
        wait_for(lambda: len(lab.pods("web")) == 1, "one pod")
        (address,) = {address for name, address in before.items() if name != lab.pod("web")["name"]}
        all_differences = differences(lab)
        (front,) = [
            difference for difference in all_differences if difference["object"] == "bpf map fronts"
        ]
        assert "Cluster: 1 endpoints in default/web" in front["desired"]
        assert "Cluster: 2 endpoints in default/web" in front["observed"]
        assert any(
            difference["action"] == "remove"
            and difference["observed"].endswith(f": {address} 8080")
            for difference in all_differences
        )
        lab.run("heal")
        lab.run("scale", "deployment", "web", "--replicas", "2")
        wait_for(lambda: sum(pod["ready"] for pod in lab.pods("web")) == 2, "two pods")
