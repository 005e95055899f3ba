"""The iptables backend: updates, refusals, rules of others, and complete removal."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from kubenetlab.hoststate.rules.iptables import (
    IptablesChain,
    Jump,
    Ruled,
    commands,
    names,
    replacement,
    update,
)
from kubenetlab.kernel.rules import iptables, nftables
from kubenetlab.kernel.rules.backends import RulesError
from tests.clusters import deployment, rules_of, service
from tests.kernel.comparing import lines

CLUSTER = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "networking: {ipFamily: dual, kubeProxyMode: iptables}\n---\n"
)

pytestmark = [
    pytest.mark.first_kernel,  # the programs of iptables behave alike on both
    pytest.mark.skipif(
        shutil.which(iptables.PROGRAM) is None,
        reason=f"the program {iptables.PROGRAM} is not installed (apt-get install iptables)",
    ),
]


def rules(text: str, then: str = "") -> list[Ruled]:
    """Return kube-proxy's rules on node `worker` in a lab where everything runs."""
    return rules_of("iptables", CLUSTER + text, then)


SMALL = rules(deployment(replicas=1) + service())
LARGE = rules(deployment(replicas=4) + service() + service("empty"))


def test_updates_and_replacement_load_the_same_rules() -> None:
    """The number of endpoints grows and shrinks.

    Each update raises the ruleset's generation, by which changes of others are detected.
    """
    with closing(iptables.open_loader()) as loader:
        generations = nftables.Generations()
        before: list[Ruled] = []
        for desired in (SMALL, LARGE, SMALL):
            generation = generations.read()
            loader.run(update(before, desired))
            assert generations.read() > generation
            changed = loader.text()
            assert lines(desired) == []
            loader.run(replacement(desired))
            assert sorted(loader.text().splitlines()) == sorted(changed.splitlines())
            before = desired
        generations.close()


def test_an_update_contains_only_changed_chains() -> None:
    """Chains of other Services are not loaded again."""
    assert update(SMALL, SMALL) == ""
    larger = rules(deployment(replicas=2) + service(), deployment(replicas=3))
    text = update(rules(deployment(replicas=2) + service()), larger)
    assert "KUBE-SVC-" in text
    assert "KUBE-SERVICES" not in text
    assert "-I " not in text


def test_rules_of_others_are_kept() -> None:
    """The lab's own rules are removed completely, including empty tables of any program."""
    with closing(iptables.open_loader()) as loader:
        theirs = "*filter\n:MINE - [0:0]\n-A MINE -j RETURN\n-A FORWARD -j MINE\nCOMMIT\n"
        loader.restore("ip", theirs)
        before = loader.text()
        loader.run(update([], LARGE))
        assert "-A FORWARD -j MINE" in loader.text()
        loader.run(replacement(LARGE))
        loader.run(update(LARGE, []))
        assert loader.text() == before
        loader.restore("ip", "*filter\n-F\n-X\nCOMMIT\n")
        loader.run(update([], SMALL))
        loader.run(replacement([], names(SMALL)))
        assert loader.text() == ""


def test_a_replacement_deletes_unknown_chains_of_the_lab() -> None:
    """A former agent left them, with the jumps to them."""
    with closing(iptables.open_loader()) as loader:
        loader.run(update([], LARGE))
        loader.run(replacement(SMALL))
        assert lines(SMALL) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            "*nat\n-F KUBE-MARK-MASQ\nCOMMIT\n",
            "~ iptables chain nat KUBE-MARK-MASQ: 1 rule    (was: 0 rules)",
        ),
        ("*nat\n:KUBE-SVC-X - [0:0]\nCOMMIT\n", "- iptables chain nat KUBE-SVC-X: 0 rules"),
        (
            '*nat\n-D PREROUTING -m comment --comment "kubernetes service portals" -j '
            "KUBE-SERVICES\nCOMMIT\n",
            '+ iptables rule nat PREROUTING: -m comment --comment "kubernetes service portals" -j '
            "KUBE-SERVICES",
        ),
        (
            "*nat\n-R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x8000/0x8000\nCOMMIT\n",
            "~ iptables rule nat KUBE-MARK-MASQ: -j MARK --set-xmark 0x4000/0x4000    (was: -j "
            "MARK --set-xmark 0x8000/0x8000)",
        ),
        (
            "*nat\n-I KUBE-POSTROUTING 2 -j RETURN\nCOMMIT\n",
            "- iptables rule nat KUBE-POSTROUTING: -j RETURN",
        ),
        (
            "*nat\n-I POSTROUTING -j KUBE-MARK-MASQ\nCOMMIT\n",
            "- iptables rule nat POSTROUTING: -j KUBE-MARK-MASQ",
        ),
        (
            "*nat\n-D KUBE-POSTROUTING 1\n-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j "
            "RETURN\nCOMMIT\n",
            "~ iptables rule nat KUBE-POSTROUTING: -m mark ! --mark 0x4000/0x4000 -j RETURN    "
            "(moved: rule 1, was: rule 3)",
        ),
    ],
)
def test_drift_is_named(change: str, line: str) -> None:
    """One edit is one difference."""
    with closing(iptables.open_loader()) as loader:
        loader.run(update([], SMALL))
        loader.restore("ip", change)
        assert lines(SMALL) == [line]


def test_a_refused_rule_is_named_without_any_effect() -> None:
    """The message has the reason, the table and the line."""
    with closing(iptables.open_loader()) as loader:
        wrong: list[Ruled] = [
            IptablesChain("n", "ip", "nat", "KUBE-A", ("-j KUBE-B",)),
            Jump("n", "ip", "nat", "OUTPUT", "-j KUBE-A"),
        ]
        with pytest.raises(RulesError) as caught:
            loader.run(update([], wrong))
        reason, table, line = str(caught.value).splitlines()
        assert reason.startswith("iptables-restore: ")
        assert "KUBE-B" in reason
        assert (table, line) == ("*nat", "-A KUBE-A -j KUBE-B")
        assert "KUBE-A" not in loader.text()


def test_the_first_jump_stays_the_first() -> None:
    """Jumps that are added later do not lead past it, and an update without jumps moves none."""
    policies: list[Ruled] = [
        IptablesChain("n", "ip", "filter", "cali-FORWARD"),
        Jump("n", "ip", "filter", "FORWARD", "-j cali-FORWARD", is_first=True),
    ]
    services: list[Ruled] = [
        IptablesChain("n", "ip", "filter", "KUBE-A"),
        Jump("n", "ip", "filter", "FORWARD", "-j KUBE-A"),
    ]
    more: list[Ruled] = [IptablesChain("n", "ip", "filter", "cali-A", ("-j RETURN",))]

    def targets(loader: iptables.Iptables) -> list[str]:
        lines = loader.text().splitlines()
        return [line.split()[-1] for line in lines if line.startswith("-A FORWARD ")]

    with closing(iptables.open_loader()) as loader:
        loader.run(update([], policies))
        loader.run(update(policies, [*services, *policies]))
        assert targets(loader) == ["cali-FORWARD", "KUBE-A"]
        assert "FORWARD -j" not in update([*services, *policies], [*services, *policies, *more])
        loader.run(update([*services, *policies], services))
        loader.run(update(services, [*services, *policies]))
        assert targets(loader) == ["cali-FORWARD", "KUBE-A"]
        loader.run(replacement([*services, *policies]))
        assert targets(loader) == ["cali-FORWARD", "KUBE-A"]


def test_each_family_has_one_command() -> None:
    """They are for iptables-restore and ip6tables-restore."""
    assert [command.partition("\n")[0] for command in commands(SMALL)] == [
        "iptables-restore --noflush <<'EOF'",
        "ip6tables-restore --noflush <<'EOF'",
    ]
