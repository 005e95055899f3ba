"""Policy routing rules: what pyroute2 encodes is decoded to the same."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.netlink.wire import HEADER
from kubenetlab.hoststate.policy_rule import PolicyRule, decode_policy_rule
from tests.unit.hoststate.netlink.test_messages import Indexes

U32 = st.integers(0, 2**32 - 1)


@st.composite
def rules(draw: Any) -> PolicyRule:
    version = draw(st.sampled_from([4, 6]))
    networks = st.one_of(
        st.just(""), st.ip_addresses(v=version).map(lambda address: f"{address}/24")
    )
    mark, mask = draw(st.one_of(st.just((0, 0)), st.tuples(U32, st.integers(1, 2**32 - 1))))
    return PolicyRule(
        "node/a",
        version,
        draw(st.integers(1, 32765)),
        draw(U32.filter(bool)),
        mark,
        mask,
        draw(networks),
        draw(networks),
        draw(st.sampled_from(["", "lo", "eth0"])),
        draw(st.booleans()),
    )


@given(rules())
def test_a_rule_is_decoded_as_it_was_encoded(rule: PolicyRule) -> None:
    body = memoryview(rule.create(Indexes()))[HEADER.size :]
    assert decode_policy_rule("node/a", body, {}) == (rule, True)


def test_a_rule_of_the_kernel_is_not_the_lab_s() -> None:
    """It has another protocol, and a request for its deletion has none."""
    rule = PolicyRule("node/a", 4, 100, 100)
    decoded = decode_policy_rule("node/a", memoryview(rule.delete(Indexes()))[HEADER.size :], {})
    assert decoded == (rule, False)


def test_a_rule_reads_like_ip_rule() -> None:
    rule = PolicyRule("node/a", 4, 99, 1, 0x100000, 0x100000, is_inverted=True)
    assert str(rule) == "rule priority 99 not fwmark 0x100000/0x100000 lookup 1"
    main = PolicyRule("node/a", 6, 5, 254, 1, 0xFFFFFFFF, "2001:db8::/32", input_link="lo")
    assert str(main) == "rule -6 priority 5 from 2001:db8::/32 fwmark 0x1 iif lo lookup main"
