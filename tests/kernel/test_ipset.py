"""The ipset backend: updates, refusals, sets of others, and complete removal."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from kubenetlab.hoststate.rules.ipset import (
    IpsetRules,
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

CLUSTER = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "networking: {ipFamily: dual, kubeProxyMode: ipvs}\n---\n"
)

pytestmark = pytest.mark.skipif(
    shutil.which(ipset.PROGRAM) is None,
    reason=f"the program {ipset.PROGRAM} is not installed (apt-get install ipset)",
)


def sets(text: str) -> list[IpsetRules]:
    """Return kube-proxy's sets on node `worker` in a lab where everything runs."""
    return rules_of("ipset", CLUSTER + text)


def contents(loader: ipset.Ipset) -> dict[str, list[str]]:
    """Return set → members, without the random parameters of the kernel's hashes."""
    return {name: sorted(items) for name, items in parse(loader.text()).items()}


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


def test_updates_and_replacement_load_the_same_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of members grows and shrinks, and nothing remains in the end.

    The lab's own changes are not taken for drift.
    """
    monkeypatch.setattr("kubenetlab.kernel.rules.ipset.CHECK_INTERVAL_S", 0)
    with closing(ipset.open_loader()) as loader:
        before: list[IpsetRules] = []
        for desired in (SMALL, LARGE, SMALL):
            loader.run(update(before, desired))
            changed = contents(loader)
            assert lines(desired) == []
            assert not loader.has_drift()
            loader.run(replacement(desired))
            assert contents(loader) == changed
            assert not loader.has_drift()
            before = desired
        loader.run(update(before, []))
        assert loader.text() == ""


def test_sets_of_others_are_kept() -> None:
    """Unknown sets with the lab's names are drift, and a replacement deletes them."""
    with closing(ipset.open_loader()) as loader:
        loader.restore("create MINE hash:ip family inet\nadd MINE 192.0.2.1\n")
        before = loader.text()
        loader.run(update([], LARGE))
        assert not loader.has_drift()
        ours = {("remove", f"ipset {obj.name}") for obj in LARGE if isinstance(obj, Set)}
        drift = differences([], names(LARGE), "ipset")
        assert {(difference.action, difference.object) for difference in drift} == ours
        loader.run(replacement([], names(LARGE)))
        assert loader.text() == before


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("add KUBE-IPVS-IPS 192.0.2.9\n", "- ipset KUBE-IPVS-IPS member 192.0.2.9"),
        ("create KUBE-X hash:ip family inet\n", "- ipset KUBE-X: 0 members"),
        ("destroy KUBE-NODE-PORT-TCP\n", "+ ipset KUBE-NODE-PORT-TCP: 0 members"),
    ],
)
def test_drift_is_detected_and_named(
    change: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replacement repairs it."""
    monkeypatch.setattr("kubenetlab.kernel.rules.ipset.CHECK_INTERVAL_S", 0)
    with closing(ipset.open_loader()) as loader:
        loader.run(update([], LARGE))
        loader.run(update(LARGE, SMALL))
        assert not loader.has_drift()
        loader.restore(change)
        assert lines(SMALL) == [line]
        assert loader.has_drift()
        loader.run(replacement(SMALL))
        assert not loader.has_drift()


def test_a_refused_member_is_named() -> None:
    """The message has the reason, the line and the object."""
    with closing(ipset.open_loader()) as loader:
        wrong: list[IpsetRules] = [
            Set("n", "KUBE-A", "hash:ip family inet"),
            Member("n", "KUBE-A", "192.0.2.1,tcp:80"),
        ]
        with pytest.raises(RulesError) as caught:
            loader.run(update([], wrong))
        assert str(caught.value).splitlines()[1:] == ["add -exist KUBE-A 192.0.2.1,tcp:80"]
        assert failed_object(str(caught.value), wrong) == (wrong[1], wrong[1])


@pytest.mark.parametrize(
    ("change", "line"),
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
            "~ iptables rule nat KUBE-MARK-MASQ: -j MARK --set-xmark 0x4000/0x4000    (was: -j "
            "MARK --set-xmark 0x8000/0x8000)",
        ),
    ],
    ids=["member added", "member removed", "rule replaced"],
)
def test_sets_and_rules_that_match_them_are_compared(change: tuple[str, str], line: str) -> None:
    """For the comparison sets are loaded before the rules that match them.

    One edit is one difference, in either backend.
    """
    text = CLUSTER + deployment() + service()
    desired = [*rules_of("ipset", text), *rules_of("iptables", text)]
    with closing(ipset.open_loader()) as set_loader, closing(iptables.open_loader()) as rule_loader:
        for step in steps((), desired, {}, anew=False):
            (set_loader if step.backend == "ipset" else rule_loader).run(step.text)
        assert "--match-set KUBE-" in rule_loader.text()
        assert lines(desired) == []
        name, commands = change
        if name == "ipset":
            set_loader.restore(commands)
        else:
            rule_loader.restore("ip", commands)
        assert lines(desired) == [line]
