"""Queueing disciplines: what is encoded is decoded to the same, and pyroute2 agrees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.netlink.message_classes import MessageClass
from kubenetlab.hoststate.netlink.wire import HEADER
from kubenetlab.hoststate.qdisc import Qdisc, decode_qdisc
from tests.unit.hoststate.netlink.test_messages import Indexes

NAMES = {7: "eth0"}
settings = st.tuples(
    st.integers(1_000, 10**10).map(lambda rate: rate * 8) | st.just(0),
    st.integers(0, 10_000_000),
    st.integers(0, 1_000_000),
).filter(any)


@given(settings)
def test_a_discipline_is_decoded_as_it_was_encoded(values: tuple[int, int, int]) -> None:
    qdisc = Qdisc("node/a", "eth0", *values)
    body = memoryview(qdisc.create(Indexes()))[HEADER.size :]
    assert decode_qdisc("node/a", body, NAMES) == (qdisc, True)


def test_pyroute2_reads_the_same_settings() -> None:
    message = MessageClass("pyroute2.netlink.rtnl.tcmsg", "tcmsg")
    tbf = Qdisc("node/a", "eth0", 10**8)
    decoded = message.decode(memoryview(tbf.create(Indexes()))[HEADER.size :])
    assert decoded.get_attr("TCA_KIND") == "tbf"
    parameters = decoded.get_nested("TCA_OPTIONS", "TCA_TBF_PARMS")
    assert (parameters["rate"], parameters["limit"]) == (12_500_000, 125_000 + 625_000)
    netem = Qdisc("node/a", "eth0", 0, 5000, 500_000)
    decoded = message.decode(memoryview(netem.create(Indexes()))[HEADER.size :])
    assert (decoded["parent"], decoded["handle"]) == (0xFFFFFFFF, 0x6B6E0000)
    options = decoded.get_attr("TCA_OPTIONS")
    assert (options["loss"], options["limit"]) == (2**31, 10_000)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((10**8, 0, 0), "qdisc tbf dev eth0 rate 100mbit"),
        ((0, 1500, 0), "qdisc netem dev eth0 delay 1.5ms"),
        ((1_500_000_000, 20_000, 5000), "qdisc netem dev eth0 delay 20ms loss 0.5% rate 1.5gbit"),
    ],
)
def test_a_discipline_reads_like_tc(values: tuple[int, int, int], text: str) -> None:
    assert str(Qdisc("node/a", "eth0", *values)) == text
