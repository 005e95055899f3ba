"""UDP flows that are deleted when endpoints change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.hoststate.rules.conntrack import FlowDestination, FlowUpdate, decode, update

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
def test_flows_are_checked_when_an_endpoint_is_removed(
    before: tuple[tuple[str, int], ...], after: tuple[tuple[str, int], ...]
) -> None:
    """An additional endpoint, or the first one, leaves flows alone."""
    transaction = update(to(before), to(after))
    assert bool(transaction) == (not set(before) <= set(after))
    if transaction:
        assert decode(transaction) == [FlowUpdate(4, "10.96.0.10", 53, after)]


def test_a_removed_service_has_no_flows() -> None:
    assert decode(update(to((("10.0.0.1", 53),)), [])) == [FlowUpdate(4, "10.96.0.10", 53, ())]
    assert update(to(()), to(())) == ""
