"""The nftables backend: transactions, listings and generations, by library and by program."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import pytest

from kubenetlab.hoststate.rules import nftables as nftables_rules
from kubenetlab.hoststate.rules.nftables import NftObject
from kubenetlab.hoststate.rules.nftables.transactions import transaction_text
from kubenetlab.kernel.rules import nftables
from kubenetlab.kernel.rules.backends import RulesError
from tests.clusters import deployment, rules_of, service
from tests.kernel.comparing import lines


def rules(text: str, then: str = "") -> list[NftObject]:
    """Return all rules of node `worker` in a lab where everything runs."""
    return rules_of("nftables", text, then)


def transaction(old: Sequence[NftObject], new: Sequence[NftObject]) -> str:
    """Return the commands of a transaction in nft syntax."""
    return transaction_text(nftables_rules.transaction(old, new))


def replacement(objects: Sequence[NftObject]) -> str:
    """Return the commands of a replacement in nft syntax."""
    return transaction_text(nftables_rules.replacement(objects))


def open_loader(backend: str) -> nftables.LibraryNft | nftables.ProgramNft:
    if backend == "library" and not nftables.has_library():
        pytest.skip(f"{nftables.LIBRARY} is not installed (apt-get install nftables)")
    if backend == "program" and shutil.which("nft") is None:
        pytest.skip("the program nft is not installed (apt-get install nftables)")
    return nftables.LibraryNft() if backend == "library" else nftables.ProgramNft()


@pytest.mark.parametrize("backend", ["library", "program"])
def test_updates_and_replacement_load_the_same_rules(backend: str) -> None:
    """Each update is one transaction, from few endpoints to many and back."""
    loader = open_loader(backend)
    small, large = (
        rules(deployment(replicas=1) + service()),
        rules(deployment(replicas=4) + service() + service("empty")),
    )
    generation = nftables.Generations().read()
    for old, new in (([], small), (small, large), (large, small)):
        loader.run(transaction(old, new))
        assert lines(new) == []
    assert nftables.Generations().read() == generation + 3
    listed = loader.run("list ruleset")
    loader.run(replacement(small))
    assert loader.run("list ruleset") == listed
    loader.close()


def test_a_refused_transaction_changes_nothing() -> None:
    """The error message names the line."""
    loader = open_loader("library")
    desired = rules(service())
    loader.run(transaction([], desired))
    before, generation = loader.run("list ruleset"), nftables.Generations().read()
    with pytest.raises(RulesError, match="No such file or directory"):
        loader.run("add chain ip kube-proxy good\nadd rule ip kube-proxy nosuch accept\n")
    assert (loader.run("list ruleset"), nftables.Generations().read()) == (before, generation)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "flush chain ip kube-proxy services",
            "~ nft chain ip kube-proxy services: 2 rules    (was: 0 rules)",
        ),
        (
            "delete element ip kube-proxy cluster-ips { 10.96.0.10 }",
            "+ nft element ip kube-proxy cluster-ips { 10.96.0.10 }",
        ),
        (
            "add element ip kube-proxy nodeport-ips { 192.0.2.1 }",
            "- nft element ip kube-proxy nodeport-ips { 192.0.2.1 }",
        ),
        ("add chain ip kube-proxy mine", "- nft chain ip kube-proxy mine: 0 rules"),
        ("delete table ip ip-masq-agent", "+ nft table ip ip-masq-agent"),
    ],
)
def test_drift_is_named(command: str, line: str) -> None:
    """Chains, rules, elements and tables are covered; the generation shows that there is drift."""
    loader = open_loader("library")
    desired = rules(deployment() + service())
    loader.run(transaction([], desired))
    generation = nftables.Generations().read()
    assert lines(desired) == []
    loader.run(command)
    assert nftables.Generations().read() == generation + 1
    assert line in lines(desired)
    loader.run(replacement(desired))
    assert lines(desired) == []


@pytest.mark.parametrize("backend", ["library", "program"])
@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "replace rule ip kube-proxy cluster-ips-check handle {drop} ip daddr 10.96.0.0/16 "
            'accept comment "Drop traffic to unallocated ClusterIPs"',
            '~ nft rule ip kube-proxy cluster-ips-check: ip daddr 10.96.0.0/16 drop comment "Drop '
            'traffic to unallocated ClusterIPs"'
            '    (was: ip daddr 10.96.0.0/16 accept comment "Drop traffic to unallocated '
            'ClusterIPs")',
        ),
        (
            "delete rule ip kube-proxy masquerading handle {return}\n"
            "add rule ip kube-proxy masquerading meta mark & 0x00004000 == 0x00000000 return",
            "~ nft rule ip kube-proxy masquerading: meta mark & 0x00004000 == 0x00000000 return   "
            " (moved: rule 1, was: rule 3)",
        ),
        (
            "insert rule ip kube-proxy services counter accept",
            "- nft rule ip kube-proxy services: counter accept",
        ),
        (
            "delete element ip kube-proxy service-ips {{ 10.96.0.10 . udp . 53 }}\n"
            "add element ip kube-proxy service-ips {{ 10.96.0.10 . udp . 53 : drop }}",
            "~ nft element ip kube-proxy service-ips {{ 10.96.0.10 . udp . 53 comment "
            '"kube-system/kube-dns:dns" : '
            "goto service-FY5PMXPG-kube-system/kube-dns/udp/dns }}    (was: 10.96.0.10 . udp . 53 "
            ": drop)",
        ),
        (
            "add chain ip kube-proxy filter-input {{ policy drop ; }}",
            "~ nft chain ip kube-proxy filter-input: type filter hook input priority filter; "
            "policy accept"
            "    (was: type filter hook input priority filter; policy drop)",
        ),
        (
            "add table ip kube-proxy {{ flags dormant ; }}",
            '~ nft table ip kube-proxy: comment "rules for kube-proxy"    (was: flags dormant; '
            'comment "rules for kube-proxy")',
        ),
    ],
    ids=["verdict", "order", "rule added", "element", "policy", "dormant"],
)
def test_one_edit_is_one_difference(command: str, line: str, backend: str) -> None:
    """Comments and counters do not matter."""
    loader = open_loader(backend)
    desired = rules(deployment() + service())
    loader.run(transaction([], desired))
    edits = nftables.ProgramNft()
    handles = {
        name: _handle(edits, chain, name)
        for chain, name in (("cluster-ips-check", "drop"), ("masquerading", "return"))
    }
    edits.run(command.format(**handles))
    assert lines(desired) == [line.format()]


def _handle(nft: nftables.ProgramNft, chain: str, verdict: str) -> str:
    """Return the handle of the first rule of a chain with this verdict."""
    listing = nft._run(["--handle", "list", "chain", "ip", "kube-proxy", chain]).splitlines()
    return next(line for line in listing if verdict in line).rpartition("# handle ")[2]


def test_a_context_stays_in_its_namespace() -> None:
    """It is used from another namespace, but changes the one in which it was created."""
    from kubenetlab.kernel.syscalls import CLONE_NEWNET, open_namespace, setns, unshare

    home = open_namespace("net")
    unshare(CLONE_NEWNET)
    inside = open_loader("library")
    setns(home, CLONE_NEWNET)
    inside.run("add table ip only-there")
    outside = open_loader("library")
    assert "only-there" in inside.run("list ruleset")
    assert outside.run("list ruleset") == ""
