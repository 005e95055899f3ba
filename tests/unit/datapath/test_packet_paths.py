"""The pictures of packets beside the CNI and proxy modes name chains, sets and maps that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kubenetlab.datapath

FOLDER = Path(kubenetlab.datapath.__file__).parent
SOURCES = {
    "nftables": ("nftables", "nftables_table", "nftables_maps"),
    "iptables": ("iptables", "iptables_names"),
    "ipvs": ("ipvs", "ipvs_rules"),
}
PATTERNS = {
    "nftables": r"\b(?:map|set) @?([a-z][a-z-]+)|\b((?:filter|nat)-[a-z-]+|[a-z-]+-check)\b",
    "iptables": r"\bKUBE-([A-Z]+(?:-[A-Z]+)*)",
    "ipvs": r"\bKUBE-([A-Z]+(?:-[A-Z]+)*)|\bset ([A-Z]+(?:-[A-Z]+)+)",
}
COMPUTED = {"tcp-endpoints", "tcp-nodeport-endpoints"}
"""Names that the code composes of a protocol and a suffix."""


def names_in_picture(mode: str) -> set[str]:
    text = (FOLDER / "proxy" / "README.md").read_text()
    section = text.partition(f"\n## {mode}\n")[2].partition("\n## ")[0]
    found = re.findall(PATTERNS[mode], section)
    return {"".join(name).rstrip("-") for name in found}


@pytest.mark.parametrize("mode", SOURCES)
def test_pictures_name_existing_chains_and_sets(mode: str) -> None:
    """A renamed chain, set or map must be renamed in the picture, too."""
    source = "".join((FOLDER / "proxy" / f"{name}.py").read_text() for name in SOURCES[mode])
    names = names_in_picture(mode)
    assert len(names) > 8
    assert [name for name in sorted(names - COMPUTED) if name not in source] == []


@pytest.mark.parametrize("folder", ["cni", "proxy"])
def test_pictures_fit_into_a_terminal(folder: str) -> None:
    """No line is longer than 100 columns."""
    lines = (FOLDER / folder / "README.md").read_text().splitlines()
    assert [line for line in lines if len(line) > 100] == []


def test_every_mode_has_a_picture() -> None:
    """The file of proxy modes has a section for each mode."""
    text = (FOLDER / "proxy" / "README.md").read_text()
    modes = {
        path.stem for path in (FOLDER / "proxy").glob("*.py") if "class Mode(" in path.read_text()
    }
    assert modes == {mode for mode in modes if f"\n## {mode}\n" in text}
