"""The ipset backend: updates, refusals, sets of others, and complete removal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubenetlab.hoststate.rules.ipset import (
    IpsetRules,
    Member,
    Set,
    failed_object,
    names,
    parse,
    range_item,
    update,
)
from kubenetlab.hoststate.rules.iptables import IptablesChain
from kubenetlab.hoststate.rules.rulesets import OwnedName, RuleObject
from kubenetlab.hoststate.rules.transactions import steps
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


def load(
    loader: ipset.Ipset,
    old: Sequence[IpsetRules],
    new: Sequence[IpsetRules],
    former: Sequence[OwnedName] = (),
    *,
    anew: bool = False,
) -> None:
    """Load sets in place of others."""
    for transaction in steps(old, new, {"ipset": former}, anew=anew):
        loader.run(transaction.text)


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
            load(loader, before, desired)
            changed = contents(loader)
            assert lines(desired) == []
            assert not loader.has_drift()
            load(loader, before, desired, anew=True)
            assert contents(loader) == changed
            assert not loader.has_drift()
            before = desired
        load(loader, before, [])
        assert loader.text() == ""


def test_sets_of_others_are_kept() -> None:
    """Unknown sets with the lab's names are drift, and a replacement deletes them."""
    with closing(ipset.open_loader()) as loader:
        loader.restore("create MINE hash:ip family inet\nadd MINE 192.0.2.1\n")
        before = loader.text()
        load(loader, [], LARGE)
        assert not loader.has_drift()
        ours = {("remove", f"ipset {obj.name}") for obj in LARGE if isinstance(obj, Set)}
        drift = differences([], names(LARGE), "ipset")
        assert {(difference.action, difference.object) for difference in drift} == ours
        load(loader, LARGE, [], names(LARGE), anew=True)
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
        load(loader, [], LARGE)
        load(loader, LARGE, SMALL)
        assert not loader.has_drift()
        loader.restore(change)
        assert lines(SMALL) == [line]
        assert loader.has_drift()
        load(loader, SMALL, SMALL, anew=True)
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


def test_sets_exist_as_long_as_rules_match_them() -> None:
    """A set and its rule are added, replaced by others, and removed, each in one change."""
    with closing(ipset.open_loader()) as set_loader, closing(iptables.open_loader()) as rule_loader:
        loaded: list[RuleObject] = []
        for names_of_sets in (["a"], ["a", "b"], ["c"], []):
            rules = tuple(f"-m set --match-set cali40s:{name} src" for name in names_of_sets)
            desired: list[RuleObject] = [
                IptablesChain("n", "ip", "filter", "cali-X", rules),
                *(Set("n", f"cali40s:{name}", "hash:ip family inet") for name in names_of_sets),
            ]
            for anew in (False, True):
                for step in steps(loaded, desired, {"ipset": [("", "cali40s:")]}, anew=anew):
                    (set_loader if step.backend == "ipset" else rule_loader).run(step.text)
                assert sorted(contents(set_loader)) == [f"cali40s:{name}" for name in names_of_sets]
            loaded = desired


def test_a_set_that_is_in_use_is_not_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error follows only when the time for the kernel to free deleted rules is over."""
    monkeypatch.setattr("kubenetlab.kernel.rules.ipset.RELEASE_TIMEOUT_S", 0.05)
    used = [Set("n", f"cali40s:{name}", "hash:ip family inet") for name in "ab"]
    with closing(ipset.open_loader()) as set_loader, closing(iptables.open_loader()) as rule_loader:
        load(set_loader, [], used)
        rule_loader.restore("ip", "*filter\n-A FORWARD -m set --match-set cali40s:b src\nCOMMIT\n")
        with pytest.raises(RulesError, match=r"in use by a kernel component\ndestroy cali40s:b"):
            load(set_loader, used, [])
        assert list(contents(set_loader)) == ["cali40s:b"]


@given(prefix=st.ip_addresses(v=6), length=st.integers(1, 128), zeros=st.sampled_from([0, 80, 96]))
@example(IPv6Address("::ffff:0:0"), 96, 0)
@example(IPv6Address("::1:0"), 112, 0)
@example(IPv6Address("::2"), 127, 0)
def test_ranges_are_written_as_the_kernel_prints_them(
    prefix: IPv6Address, length: int, zeros: int
) -> None:
    """Random ranges, many of which begin with zeros."""
    address = int(prefix) & ((1 << (128 - zeros)) - 1)
    item = range_item(str(IPv6Network((address, length), strict=False)))
    with closing(ipset.open_loader()) as loader:
        loader.restore("create -exist S hash:net family inet6\nflush S\n")
        loader.restore(f"add S {item}\n")
        assert contents(loader)["S"] == [item]
