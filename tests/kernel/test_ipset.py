"""kube-proxy's sets by ipset: changes, refusals, what others have beside them, and nothing left in the end."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from kubenetlab.hoststate.rules.ipset import (
    Filled,
    Member,
    Set,
    failed_object,
    names,
    parse,
    replacement,
    update,
)
from kubenetlab.hoststate.rules.rulesets import steps
from kubenetlab.kernel.rules import ipset, iptables
from kubenetlab.kernel.rules.backends import RulesError
from tests.clusters import deployment, rules_of, service
from tests.kernel.comparing import differences, lines

CLUSTER = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: dual, kubeProxyMode: ipvs}\n---\n"

pytestmark = pytest.mark.skipif(
    shutil.which(ipset.PROGRAM) is None,
    reason=f"the program {ipset.PROGRAM} is not here (apt-get install ipset)",
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
    + service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        loadBalancerSourceRanges=["0.0.0.0/0", "198.51.100.10/32"],
    )
    + service("open", type="NodePort", externalIPs=["192.0.2.50", "2001:db8:1::50"])
)


def test_changing_ends_where_making_anew_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """From few members to many and back, and nothing is left in the end; nobody else is thought to have had a hand in it."""
    monkeypatch.setattr("kubenetlab.kernel.rules.ipset.CHECK_INTERVAL_S", 0)
    with closing(ipset.open_here()) as here:
        before: list[Filled] = []
        for wanted in (SMALL, LARGE, SMALL):
            here.run(update(before, wanted))
            changed = contents(here)
            assert lines(wanted) == []
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
        ours = {("remove", f"ipset {obj.name}") for obj in LARGE if isinstance(obj, Set)}
        found = differences([], names(LARGE), "ipset")
        assert {(difference.action, difference.object) for difference in found} == ours
        here.run(replacement([], names(LARGE)))
        assert here.text() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("add KUBE-IPVS-IPS 192.0.2.9\n", "- ipset KUBE-IPVS-IPS member 192.0.2.9"),
        ("create KUBE-X hash:ip family inet\n", "- ipset KUBE-X: 0 members"),
        ("destroy KUBE-NODE-PORT-TCP\n", "+ ipset KUBE-NODE-PORT-TCP: 0 members"),
    ],
)
def test_what_somebody_changed_is_named_and_noticed(
    change: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubenetlab.kernel.rules.ipset.CHECK_INTERVAL_S", 0)
    with closing(ipset.open_here()) as here:
        here.run(update([], LARGE))
        here.run(update(LARGE, SMALL))
        assert not here.was_touched()
        here.restore(change)
        assert lines(SMALL) == [said]
        assert here.was_touched()
        here.run(replacement(SMALL))
        assert not here.was_touched()


def test_a_refused_member_is_named() -> None:
    """The reason, the line, the object."""
    with closing(ipset.open_here()) as here:
        wrong: list[Filled] = [
            Set("n", "KUBE-A", "hash:ip family inet"),
            Member("n", "KUBE-A", "192.0.2.1,tcp:80"),
        ]
        with pytest.raises(RulesError) as caught:
            here.run(update([], wrong))
        assert str(caught.value).splitlines()[1:] == ["add -exist KUBE-A 192.0.2.1,tcp:80"]
        assert failed_object(str(caught.value), wrong) == (wrong[1], wrong[1])


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            ("ipset", "add KUBE-CLUSTER-IP 10.96.9.9,tcp:80\n"),
            "- ipset KUBE-CLUSTER-IP member 10.96.9.9,tcp:80",
        ),
        (
            ("ipset", "del KUBE-CLUSTER-IP 10.96.0.10,tcp:53\n"),
            "+ ipset KUBE-CLUSTER-IP member 10.96.0.10,tcp:53",
        ),
        (
            ("iptables", "*nat\n-R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x8000/0x8000\nCOMMIT\n"),
            "~ iptables rule nat KUBE-MARK-MASQ: -j MARK --set-xmark 0x4000/0x4000    (was: -j MARK --set-xmark 0x8000/0x8000)",
        ),
    ],
    ids=["member added", "member removed", "rule replaced"],
)
def test_sets_and_the_rules_that_name_them_are_compared(
    change: tuple[str, str], shown: str
) -> None:
    """Rules that ask sets are loaded for comparison after the sets; one edit is one difference, in either backend."""
    text = CLUSTER + deployment() + service()
    wanted = [*rules_of("ipset", text), *rules_of("iptables", text)]
    with closing(ipset.open_here()) as sets_here, closing(iptables.open_here()) as rules_here:
        for step in steps((), wanted, {}, anew=False):
            (sets_here if step.dialect == "ipset" else rules_here).run(step.text)
        assert "--match-set KUBE-" in rules_here.text()
        assert lines(wanted) == []
        name, commands = change
        if name == "ipset":
            sets_here.restore(commands)
        else:
            rules_here.restore("ip", commands)
        assert lines(wanted) == [shown]
