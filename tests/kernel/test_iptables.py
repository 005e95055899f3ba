"""kube-proxy's chains by iptables: changes, refusals, what others have beside them, and nothing left in the end."""

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

CLUSTER = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: dual, kubeProxyMode: iptables}\n---\n"

pytestmark = pytest.mark.skipif(
    shutil.which(iptables.PROGRAM) is None,
    reason=f"the program {iptables.PROGRAM} is not here (apt-get install iptables)",
)


def rules(text: str, then: str = "") -> list[Ruled]:
    """kube-proxy's rules on the node `worker` in a lab where everything runs."""
    return rules_of("iptables", CLUSTER + text, then)


SMALL = rules(deployment(replicas=1) + service())
LARGE = rules(deployment(replicas=4) + service() + service("empty"))


def test_changing_ends_where_making_anew_ends() -> None:
    """From few endpoints to many and back; each change raises the ruleset's generation, by which others' changes are noticed."""
    with closing(iptables.open_here()) as here:
        generations = nftables.Generations()
        before: list[Ruled] = []
        for wanted in (SMALL, LARGE, SMALL):
            begun = generations.read()
            here.run(update(before, wanted))
            assert generations.read() > begun
            changed = here.text()
            assert lines(wanted) == []
            here.run(replacement(wanted))
            assert sorted(here.text().splitlines()) == sorted(changed.splitlines())
            before = wanted
        generations.close()


def test_a_change_tells_only_what_differs() -> None:
    """The chains of the Service that changed, and none of those that are as they were."""
    assert update(SMALL, SMALL) == ""
    larger = rules(deployment(replicas=2) + service(), deployment(replicas=3))
    text = update(rules(deployment(replicas=2) + service()), larger)
    assert "KUBE-SVC-" in text
    assert "KUBE-SERVICES" not in text
    assert "-I " not in text


def test_what_others_have_stays() -> None:
    """Rules of theirs in built-in chains, chains of theirs; ours go and leave no empty table behind, whoever made it."""
    with closing(iptables.open_here()) as here:
        theirs = "*filter\n:MINE - [0:0]\n-A MINE -j RETURN\n-A FORWARD -j MINE\nCOMMIT\n"
        here.restore("ip", theirs)
        before = here.text()
        here.run(update([], LARGE))
        assert "-A FORWARD -j MINE" in here.text()
        here.run(replacement(LARGE))
        here.run(update(LARGE, []))
        assert here.text() == before
        here.restore("ip", "*filter\n-F\n-X\nCOMMIT\n")
        here.run(update([], SMALL))
        here.run(replacement([], names(SMALL)))
        assert here.text() == ""


def test_chains_of_which_nobody_knows_go_with_a_replacement() -> None:
    """What a former agent left, with the jumps to it."""
    with closing(iptables.open_here()) as here:
        here.run(update([], LARGE))
        here.run(replacement(SMALL))
        assert lines(SMALL) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "*nat\n-F KUBE-MARK-MASQ\nCOMMIT\n",
            "~ iptables chain nat KUBE-MARK-MASQ: 1 rule    (was: 0 rules)",
        ),
        ("*nat\n:KUBE-SVC-X - [0:0]\nCOMMIT\n", "- iptables chain nat KUBE-SVC-X: 0 rules"),
        (
            '*nat\n-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\nCOMMIT\n',
            '+ iptables rule nat PREROUTING: -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        ),
        (
            "*nat\n-R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x8000/0x8000\nCOMMIT\n",
            "~ iptables rule nat KUBE-MARK-MASQ: -j MARK --set-xmark 0x4000/0x4000    (was: -j MARK --set-xmark 0x8000/0x8000)",
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
            "*nat\n-D KUBE-POSTROUTING 1\n-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\nCOMMIT\n",
            "~ iptables rule nat KUBE-POSTROUTING: -m mark ! --mark 0x4000/0x4000 -j RETURN    (moved: rule 1, was: rule 3)",
        ),
    ],
)
def test_what_somebody_changed_is_named(change: str, said: str) -> None:
    with closing(iptables.open_here()) as here:
        here.run(update([], SMALL))
        here.restore("ip", change)
        assert lines(SMALL) == [said]


def test_a_refused_rule_is_named_and_nothing_is_done() -> None:
    """The reason, the table, the line."""
    with closing(iptables.open_here()) as here:
        wrong: list[Ruled] = [
            IptablesChain("n", "ip", "nat", "KUBE-A", ("-j KUBE-B",)),
            Jump("n", "ip", "nat", "OUTPUT", "-j KUBE-A"),
        ]
        with pytest.raises(RulesError) as caught:
            here.run(update([], wrong))
        reason, table, line = str(caught.value).splitlines()
        assert reason.startswith("iptables-restore: ")
        assert "KUBE-B" in reason
        assert (table, line) == ("*nat", "-A KUBE-A -j KUBE-B")
        assert "KUBE-A" not in here.text()


def test_commands_are_for_the_programs() -> None:
    """One input for each family."""
    assert [command.partition("\n")[0] for command in commands(SMALL)] == [
        "iptables-restore --noflush <<'EOF'",
        "ip6tables-restore --noflush <<'EOF'",
    ]
