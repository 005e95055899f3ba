"""Which UDP flows are forgotten when endpoints change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.rules.conntrack import Allowed, FlowDestination, decode, update

ENDPOINTS = st.lists(
    st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), st.just(53)),
    unique=True,
    max_size=3,
).map(tuple)


def to(
    endpoints: tuple[tuple[str, int], ...], address: str = "10.96.0.10"
) -> list[FlowDestination]:
    return [FlowDestination("n", address, 53, 4, endpoints)]


@given(ENDPOINTS, ENDPOINTS)
def test_flows_are_looked_at_when_one_may_lead_astray(
    before: tuple[tuple[str, int], ...], after: tuple[tuple[str, int], ...]
) -> None:
    """When an endpoint is gone; that there is one more, or the first, concerns nobody."""
    told = update(to(before), to(after))
    assert bool(told) == (not set(before) <= set(after))
    if told:
        assert decode(told) == [Allowed(4, "10.96.0.10", 53, after)]


def test_a_service_that_goes_takes_its_flows_along() -> None:
    assert decode(update(to((("10.0.0.1", 53),)), [])) == [Allowed(4, "10.96.0.10", 53, ())]
    assert update(to(()), to(())) == ""
