"""Reasons of dropped packets: cut in logs, and found by their digest."""

from __future__ import annotations

from kubenetlab.datapath.policy.common import isolation_reason, log_prefix, rule_title
from kubenetlab.datapath.policy.drop_reasons import long_reasons
from kubenetlab.datapath.policy.members import PodGroup
from kubenetlab.datapath.policy.rules import ADMIN, IsolatingPolicy, PolicyRule
from kubenetlab.names import MAX_LOG_PREFIX

PODS = PodGroup("default", "")
DENY = PolicyRule(0, True, (), (), True, (), (), action="Deny")
ALLOW = PolicyRule(1, True, (), (), True, (), ())


def isolating(name: str) -> IsolatingPolicy:
    return IsolatingPolicy(f"default/{name}", "Ingress", PODS, (ALLOW,))


def test_a_short_reason_is_logged_as_it_is() -> None:
    reason = isolation_reason([isolating("web"), isolating("deny")])
    assert log_prefix(reason) == reason == "Ingress isolated by default/web, default/deny"
    assert long_reasons([(isolating("web"),)]) == {}


def test_reasons_that_begin_alike_have_different_texts_in_logs() -> None:
    """Each has the maximum length, and both begin as the reason does."""
    reasons = [isolation_reason([isolating("a" * 60 + end)]) for end in "bc"]
    prefixes = [log_prefix(reason) for reason in reasons]
    assert len(set(prefixes)) == 2
    assert {len(prefix) for prefix in prefixes} == {MAX_LOG_PREFIX}
    assert all(prefix.startswith("Ingress isolated by default/aaaa") for prefix in prefixes)
    assert [prefix[50:54] for prefix in prefixes] == ["... ", "... "]


def test_all_long_reasons_of_pods_are_found() -> None:
    """Policies that isolate together share one reason, and rules that accept log nothing."""
    first, second = isolating("a" * 60), isolating("b")
    admin = IsolatingPolicy(
        "c" * 60, "Ingress", PODS, (DENY, ALLOW), "ClusterNetworkPolicy", ADMIN, isolates=False
    )
    title = rule_title(admin, DENY)
    assert title == f"ClusterNetworkPolicy {'c' * 60} Ingress rule 0"
    together = f"Ingress isolated by default/{'a' * 60}, default/b"
    alone = f"Ingress isolated by default/{'a' * 60}"
    assert long_reasons([(first, second, admin), (first,), (second,)]) == {
        log_prefix(reason): reason for reason in (title, together, alone)
    }
