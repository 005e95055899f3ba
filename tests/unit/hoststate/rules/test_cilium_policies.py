"""Entries of the policy maps of cilium: sets of policies and rules are known by their numbers."""

from __future__ import annotations

from typing import Final

from kubenetlab.hoststate.rules.cilium_entries import ANY_PREFIX, INGRESS, describe_entry
from kubenetlab.hoststate.rules.cilium_objects import CiliumObject
from kubenetlab.hoststate.rules.cilium_policies import (
    CiliumPoliced,
    CiliumPolicies,
    CiliumRule,
    PolicyPorts,
    number_of,
)

TEXTS: Final = ("Ingress 3345", "Ingress 54873")
"""Texts whose digests have the same first 32 bits."""


def written(obj: CiliumObject) -> tuple[str, str]:
    """Return the bytes of the only entry of an object."""
    (((_, key), value),) = obj.entries()
    return key.hex(), value.hex()


def test_sets_of_policies_that_share_32_bits_of_their_digests_are_different() -> None:
    """A pod would have the verdicts of another one's policies."""
    first, second = (number_of(text) for text in TEXTS)
    assert first >> 32 == second >> 32
    everything = (PolicyPorts(ANY_PREFIX, 0, 0, is_denied=True, rule=""),)
    verdicts = {written(CiliumPolicies("", text, INGRESS, 0, everything)) for text in TEXTS}
    assert len({key for key, _ in verdicts}) == 2
    pods = {written(CiliumPoliced("", "a/b", 17, INGRESS, text, False)) for text in TEXTS}
    assert len({value for _, value in pods}) == 2


def test_rules_that_share_32_bits_of_their_digests_are_different() -> None:
    assert len({written(CiliumRule("", text))[0] for text in TEXTS}) == 2
    decided = (
        CiliumPolicies("", "x", INGRESS, 0, (PolicyPorts(ANY_PREFIX, 0, 0, True, text),))
        for text in TEXTS
    )
    assert len({written(obj)[1] for obj in decided}) == 2


def test_numbers_are_shown_in_full() -> None:
    pod = CiliumPoliced("", "a/b", 17, INGRESS, TEXTS[0], has_tiers=False)
    (((name, key), value),) = pod.entries()
    number = f"{number_of(TEXTS[0]):016x}"
    assert describe_entry(name, key, value).endswith(f"policies {number}")
    assert str(pod).endswith(f"policies {number}")
