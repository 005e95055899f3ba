"""kube-proxy's sets by ipset: changes, refusals, what others have beside them, and nothing left in the end."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from kubenetlab.hoststate.ipset import Filled, Member, Set, blamed, differences, names, parse, replacement, update
from kubenetlab.kernel import ipset
from kubenetlab.kernel.rules import RulesError
from tests.clusters import deployment, rules_of, service

CLUSTER = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: dual, kubeProxyMode: ipvs}\n---\n"

pytestmark = pytest.mark.skipif(
    shutil.which(ipset.PROGRAM) is None, reason=f"the program {ipset.PROGRAM} is not here (apt-get install ipset)"
)


def sets(text: str) -> list[Filled]:
    """kube-proxy's sets on the node `worker` in a lab where everything runs."""
    return rules_of("ipset", CLUSTER + text)


def contents(here: ipset.Ipset) -> dict[str, list[str]]:
    """Set → its members; how the kernel has drawn its hashes is left out."""
    return {name: sorted(items) for name, items in parse(here.text()).items()}


SMALL = sets(deployment(replicas=1) + service())
LARGE = sets(
    deployment(replicas=4)
    + service(type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerSourceRanges=["0.0.0.0/0", "198.51.100.10/32"])
    + service("open", type="NodePort", externalIPs=["192.0.2.50", "2001:db8:1::50"])
)


def test_changing_ends_where_making_anew_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """From few members to many and back, and nothing is left in the end; nobody else is thought to have had a hand in it."""
    monkeypatch.setattr("kubenetlab.kernel.ipset.REST_S", 0)
    with closing(ipset.open_here()) as here:
        before: list[Filled] = []
        for wanted in (SMALL, LARGE, SMALL):
            here.run(update(before, wanted))
            changed = contents(here)
            assert list(differences(wanted, here.listed(names(wanted)))) == []
            assert not here.was_touched()
            here.run(replacement(wanted))
            assert contents(here) == changed
            assert not here.was_touched()
            before = wanted
        here.run(update(before, []))
        assert here.text() == ""


def test_what_others_have_stays() -> None:
    """Sets of theirs; ours of which nobody knows are named, and go with a replacement."""
    with closing(ipset.open_here()) as here:
        here.restore("create MINE hash:ip family inet\nadd MINE 192.0.2.1\n")
        before = here.text()
        here.run(update([], LARGE))
        assert not here.was_touched()
        ours = {f"- ipset {obj.name}" for obj in LARGE if isinstance(obj, Set)}
        assert set(differences([], here.listed(names(LARGE)), names(LARGE))) == ours
        here.run(replacement([], names(LARGE)))
        assert here.text() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("add KUBE-IPVS-IPS 192.0.2.9\n", "- ipset KUBE-IPVS-IPS member 192.0.2.9"),
        ("create KUBE-X hash:ip family inet\n", "- ipset KUBE-X"),
        ("destroy KUBE-NODE-PORT-TCP\n", "+ ipset KUBE-NODE-PORT-TCP bitmap:port range 0-65535"),
    ],
)
def test_what_somebody_changed_is_named_and_noticed(change: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubenetlab.kernel.ipset.REST_S", 0)
    with closing(ipset.open_here()) as here:
        here.run(update([], LARGE))
        here.run(update(LARGE, SMALL))
        assert not here.was_touched()
        here.restore(change)
        assert list(differences(SMALL, here.listed(names(SMALL)))) == [said]
        assert here.was_touched()
        here.run(replacement(SMALL))
        assert not here.was_touched()


def test_a_refused_member_is_named() -> None:
    """The reason, the line, the object."""
    with closing(ipset.open_here()) as here:
        wrong: list[Filled] = [Set("n", "KUBE-A", "hash:ip family inet"), Member("n", "KUBE-A", "192.0.2.1,tcp:80")]
        with pytest.raises(RulesError) as caught:
            here.run(update([], wrong))
        assert str(caught.value).splitlines()[1:] == ["add -exist KUBE-A 192.0.2.1,tcp:80"]
        assert blamed(str(caught.value), wrong) == (wrong[1], wrong[1])
