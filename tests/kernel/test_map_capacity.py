"""Updates that exceed the size of a BPF map: nothing of them is in force."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import pytest

from kubenetlab.hoststate.rules import cilium
from kubenetlab.hoststate.rules.cilium import HOST, CiliumPrograms
from kubenetlab.hoststate.rules.cilium_entries import EGRESS, INGRESS
from kubenetlab.hoststate.rules.cilium_policies import CiliumPoliced
from kubenetlab.kernel.rules.backends import RulesError
from kubenetlab.kernel.rules.bpf import BpfLoader
from kubenetlab.kernel.rules.cilium import open_loader
from tests.libbpf import require_libbpf

MAXIMUM: Final = 16384
"""Size of cilium_policed."""
NODE: Final[list[Any]] = [CiliumPrograms("", ("10.244.1.1",), "0a:58:0a:f4:01:01", "eth0")]


@contextmanager
def opened_loader() -> Iterator[BpfLoader]:
    """Open the loader of a node with the links of the programs."""
    require_libbpf()
    for number, link in enumerate(("eth0", HOST)):
        command = f"ip link add {link} type veth peer name peer{number}"
        subprocess.run(command.split(), check=True)
    with closing(open_loader()) as loader:
        yield loader


def pods(count: int, direction: int = INGRESS) -> list[Any]:
    """Return the entries of pods, with the same numbers for each direction."""
    return [
        CiliumPoliced("", f"default/p{number}", number, direction, "x", has_tiers=False)
        for number in range(count)
    ]


def test_too_many_entries_are_refused_before_anything_changes() -> None:
    """The map is full to the last entry before. The loader still knows what the maps have."""
    full, too_many = NODE + pods(MAXIMUM), NODE + pods(MAXIMUM + 1)
    with opened_loader() as loader:
        loader.run(cilium.update([], full))
        for text in (cilium.update(full, too_many), cilium.replacement(too_many)):
            with pytest.raises(RulesError) as caught:
                loader.run(text)
            assert str(caught.value) == (
                "the map cilium_policed holds at most 16,384 entries; needed: 16,385"
            )
        assert not [*cilium.differences(full, loader.listed(()))]
        assert not any(loader.has_drift() for _ in range(200))
        loader.run(cilium.update(full, NODE))
        assert not [*cilium.differences(NODE, loader.listed(()))]


def test_nothing_is_attached_if_the_first_entries_are_too_many() -> None:
    with opened_loader() as loader:
        with pytest.raises(RulesError):
            loader.run(cilium.update([], NODE + pods(MAXIMUM + 1)))
        listed: Any = loader.listed(())
        assert not listed["links"]
        assert not listed["maps"]["cilium_policed"]


def test_a_map_has_to_hold_old_and_new_entries_during_a_change() -> None:
    """Packets have the old or the new verdict, so old entries are deleted last."""
    old, new = NODE + pods(10000), NODE + pods(10000, EGRESS)
    with opened_loader() as loader:
        loader.run(cilium.update([], old))
        for text in (cilium.update(old, new), cilium.replacement(new)):
            with pytest.raises(RulesError, match="needed: 20,000 during this change"):
                loader.run(text)
        loader.run(cilium.update(old, NODE))
        loader.run(cilium.update(NODE, new))
        assert not [*cilium.differences(new, loader.listed(()))]
