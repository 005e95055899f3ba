"""XFRM states and policies: what is encoded is decoded to the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.encryption.xfrm import (
    OUR_REQID,
    XFRM_POLICY_MESSAGES,
    XFRM_STATE_MESSAGES,
    XfrmPolicy,
    XfrmState,
    decode_policies,
    decode_states,
)
from kubenetlab.hoststate.netlink.wire import HEADER, messages
from kubenetlab.hoststate.secret import Secret
from tests.unit.hoststate.netlink.test_messages import Indexes

SPIS = st.integers(256, 2**32 - 1)
MARKS = st.integers(0, 2**32 - 1)


@dataclass
class Family:
    """Addresses of one IP version."""

    version: int
    length: int


families = st.sampled_from([Family(4, 32), Family(6, 128)])


@st.composite
def states(draw: Any) -> XfrmState:
    addresses = st.ip_addresses(v=draw(families).version).map(str)
    key = Secret(draw(st.sampled_from([20, 28, 36])) * draw(st.binary(min_size=1, max_size=1)))
    window = draw(st.integers(0, 32))
    return XfrmState(
        "node/a", draw(addresses), draw(addresses), draw(SPIS), key, draw(MARKS), window
    )


@st.composite
def policies(draw: Any) -> XfrmPolicy:
    family = draw(families)
    networks = st.ip_addresses(v=family.version).map(lambda address: f"{address}/{family.length}")
    protocol, port = draw(st.sampled_from([(0, 0), (17, 0), (17, 6784)]))
    spi, is_inbound = draw(st.just(0) | SPIS), draw(st.booleans())
    ends = (draw(networks), draw(networks))
    return XfrmPolicy("node/a", *ends, spi, draw(MARKS), protocol, port, is_inbound)


@given(states())
def test_a_state_is_decoded_as_it_was_encoded(state: XfrmState) -> None:
    body = memoryview(state.create(Indexes()))[HEADER.size :]
    assert list(decode_states("node/a", [body], {})) == [(state, True)]


@given(policies())
def test_a_policy_is_decoded_as_it_was_encoded(policy: XfrmPolicy) -> None:
    body = memoryview(policy.create(Indexes()))[HEADER.size :]
    assert list(decode_policies("node/a", [body], {})) == [(policy, True)]


def test_policies_of_both_directions_are_different_objects() -> None:
    """Both have the same selector, and the kernel keeps both."""
    ends = ("192.0.2.1/32", "192.0.2.2/32")
    out = XfrmPolicy("node/a", *ends, 256, ip_protocol=17, port=6784)
    inbound = XfrmPolicy("node/a", *ends, 0, ip_protocol=17, port=6784, is_inbound=True)
    assert out.key != inbound.key
    assert "dir in tmpl proto esp reqid" in "".join(inbound.commands(str))
    assert "dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100" in "".join(
        out.commands(str)
    )


def test_states_of_other_programs_are_not_the_lab_s() -> None:
    """They have another request ID."""
    state = XfrmState("node/a", "192.0.2.1", "192.0.2.2", 256, Secret(bytes(20)))
    data = state.create(Indexes()).replace(OUR_REQID.to_bytes(4, "little"), bytes(4))
    ((_, is_ours),) = decode_states("node/a", [memoryview(data)[HEADER.size :]], {})
    assert not is_ours


def test_a_key_is_shown_nowhere() -> None:
    key = bytes(range(20))
    state = XfrmState("node/a", "192.0.2.1", "192.0.2.2", 0x1000, Secret(key))
    for text in (str(state), repr(state), *state.commands(str)):
        assert key.hex() not in text
        assert repr(key) not in text


def test_only_nodes_are_asked_for_states_and_policies() -> None:
    for kind, type_ in ((XFRM_STATE_MESSAGES, 18), (XFRM_POLICY_MESSAGES, 21)):
        assert list(kind.dumps("pod/default/a", [])) == []
        (request,) = kind.dumps("node/a", [])
        ((found, _, _, body),) = messages(request)
        assert (found, len(body)) == (type_, 0)
