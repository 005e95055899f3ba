"""Rules in the kernel: transactions, listings, generations, by the library and by the program."""

from __future__ import annotations

import shutil

import pytest

from kubenetlab.hoststate.nftables import NftObject, names, replacement, transaction
from kubenetlab.hoststate.nftables import differences as differences_of
from kubenetlab.kernel import nftables
from kubenetlab.kernel.rules import Loader, RulesError
from tests.clusters import deployment, rules_of, service


def rules(text: str, then: str = "") -> list[NftObject]:
    """All rules of the node `worker` in a lab where everything runs."""
    return rules_of("nftables", text, then)


def opened(way: str) -> Loader:
    if way == "library" and not nftables.has_library():
        pytest.skip(f"{nftables.LIBRARY} is not here (apt-get install nftables)")
    if way == "program" and shutil.which("nft") is None:
        pytest.skip("the program nft is not here (apt-get install nftables)")
    return nftables.LibraryNft() if way == "library" else nftables.ProgramNft()


def differences(here: Loader, wanted: list[NftObject]) -> list[str]:
    return list(differences_of(wanted, here.listed(names(wanted))))


@pytest.mark.parametrize("way", ["library", "program"])
def test_changing_ends_where_making_anew_ends(way: str) -> None:
    """One transaction from few endpoints to many and back; each raises the generation by one."""
    here = opened(way)
    small, large = rules(deployment(replicas=1) + service()), rules(deployment(replicas=4) + service() + service("empty"))
    begun = nftables.Generations().read()
    for old, new in (([], small), (small, large), (large, small)):
        here.run(transaction(old, new))
        assert differences(here, new) == []
    assert nftables.Generations().read() == begun + 3
    listed = here.run("list ruleset")
    here.run(replacement(small))
    assert here.run("list ruleset") == listed
    here.close()


def test_a_refused_transaction_changes_nothing() -> None:
    """All or nothing, and nft says where."""
    here = opened("library")
    wanted = rules(service())
    here.run(transaction([], wanted))
    before, generation = here.run("list ruleset"), nftables.Generations().read()
    with pytest.raises(RulesError, match="No such file or directory"):
        here.run("add chain ip kube-proxy good\nadd rule ip kube-proxy nosuch accept\n")
    assert (here.run("list ruleset"), nftables.Generations().read()) == (before, generation)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("flush chain ip kube-proxy services", "~ nft chain ip kube-proxy services: 2 rules    (was: 0 rules)"),
        ("delete element ip kube-proxy cluster-ips { 10.96.0.10 }", "+ nft element ip kube-proxy cluster-ips { 10.96.0.10 }"),
        ("add element ip kube-proxy nodeport-ips { 192.0.2.1 }", "- nft element ip kube-proxy nodeport-ips { 192.0.2.1 }"),
        ("add chain ip kube-proxy mine", "- nft chain ip kube-proxy mine"),
        ("delete table ip ip-masq-agent", "+ nft table ip ip-masq-agent"),
    ],
)
def test_what_somebody_changed_is_named(command: str, said: str) -> None:
    """Chains, rules, elements, tables; and the generation number tells that there was something."""
    here = opened("library")
    wanted = rules(deployment() + service())
    here.run(transaction([], wanted))
    generation = nftables.Generations().read()
    assert differences(here, wanted) == []
    here.run(command)
    assert nftables.Generations().read() == generation + 1
    assert said in differences(here, wanted)
    here.run(replacement(wanted))
    assert differences(here, wanted) == []


def test_the_context_stays_in_its_namespace() -> None:
    """Made inside, used from outside: the rules land where it was made."""
    from kubenetlab.kernel.syscalls import CLONE_NEWNET, open_namespace, setns, unshare

    home = open_namespace("net")
    unshare(CLONE_NEWNET)
    inside = opened("library")
    setns(home, CLONE_NEWNET)
    inside.run("add table ip only-there")
    outside = opened("library")
    assert "only-there" in inside.run("list ruleset")
    assert outside.run("list ruleset") == ""
