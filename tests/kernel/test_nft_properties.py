"""Random typed rules have the same effect as text for libnftables and as netlink messages."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

import tests.examples  # noqa: F401
from kubenetlab.hoststate.rules.nftables import NftObject, replacement
from tests.kernel.test_nft_messages import Side, load_both
from tests.nft_rules import rulesets

PHASES = (Phase.explicit, Phase.generate)
"""Without shrinking, which would take minutes: a failure shows the first rules that differ."""


@pytest.mark.first_kernel  # tests/kernel/test_nft_messages.py runs on both
def test_random_rules_give_identical_kernel_state() -> None:
    """Every statement, type of set and comment; the kernel's dumps are compared byte by byte."""
    by_library, by_messages = Side(), Side()

    @settings(phases=PHASES)
    @given(rulesets())
    def check(desired: list[NftObject]) -> None:
        load_both(replacement(desired), by_library, by_messages)
        assert by_messages.has(desired) == by_library.has(desired)

    check()
