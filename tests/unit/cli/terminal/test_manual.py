"""Manual pages on terminals."""

from __future__ import annotations

import re

import pytest

from kubenetlab.cli.terminal.display import Display
from kubenetlab.cli.terminal.layout import cell_width
from kubenetlab.cli.terminal.manual import manual_lines
from kubenetlab.cli.terminal.printing import print_manual
from kubenetlab.cli.terminal.theme import unpaint
from kubenetlab.datapath import faults, manuals, modes
from tests.golden.screens import capture

MANUALS = {
    **{f"{family}-{name}": manuals.manual(family, name) for family in modes.FAMILIES
       for name in modes.known(family)},
    **{name: faults.manual(name) for name in faults.known()},
}  # fmt: skip
PAGE = """\
sieve: drops what does not fit.

    pod eth0 ── veth0 ┐               ┌ eth0 ── fabric
                      ├ sieve (node)  ┤
    pod eth0 ── veth1 ┘               └ lo

Packets that do not fit
are dropped. See `nft list`.

Needs: nft.
As in: nothing else.

mesh: fine | coarse
    fine    Drops more than
            others do.
    coarse  Drops less.

How to diagnose:
    Look at the counters
    of the table.
node: name of a node.
how: stopped | stale."""


@pytest.mark.parametrize("name", MANUALS)
@pytest.mark.parametrize("width", [70, 80, 140])
def test_a_manual_fits_and_is_whole(name: str, width: int) -> None:
    """All words are there in their order, apart from pictures that had to be cut."""
    screen = Display(is_drawn=True, has_colours=False, is_live=True, width=width)
    drawn = capture(lambda: print_manual(MANUALS[name]), screen)
    assert [line for line in drawn.splitlines() if cell_width(line) > width] == []
    pictures = re.compile(r"^.*[\u2500-\u257f→].*\n?", re.MULTILINE)
    shown = iter(drawn.replace("\n", " ").split(" "))
    # `in` advances the iterator, so that the words must come in their order.
    assert [word for word in pictures.sub("", MANUALS[name]).split() if word not in shown] == []


@pytest.mark.parametrize("name", MANUALS)
def test_no_picture_is_cut_on_a_terminal_of_80_columns(name: str) -> None:
    """An ellipsis of the page itself, as in `net.ipv4.vs.…`, stays."""
    drawn = "\n".join(unpaint(line.text) for line in manual_lines(MANUALS[name], 80))
    assert drawn.count("…") == MANUALS[name].count("…")


def test_a_wide_terminal_shows_the_lines_of_the_page() -> None:
    lines = [unpaint(line.text) for line in manual_lines(PAGE, 120)]
    assert "\n".join(lines) == PAGE
    assert lines == [unpaint(line.text) for line in manual_lines(PAGE, None)]


def test_a_narrow_terminal_joins_the_lines_of_paragraphs() -> None:
    """Not those of pictures, labels, terms and tables."""
    assert [(unpaint(text), indent) for text, indent in manual_lines(PAGE, 49)] == [
        ("sieve: drops what does not fit.", 4),
        ("", 0),
        ("pod eth0 ── veth0 ┐               ┌ eth0 ─ fabric", 0),
        ("                  ├ sieve (node)  ┤", 0),
        ("pod eth0 ── veth1 ┘               └ lo", 0),
        ("", 0),
        ("Packets that do not fit are dropped. See `nft list`.", 0),
        ("", 0),
        ("Needs: nft.", 0),
        ("As in: nothing else.", 0),
        ("", 0),
        ("mesh: fine | coarse", 4),
        ("    fine    Drops more than others do.", 12),
        ("    coarse  Drops less.", 12),
        ("", 0),
        ("How to diagnose:", 4),
        ("    Look at the counters of the table.", 4),
        ("node: name of a node.", 0),
        ("how: stopped | stale.", 0),
    ]


def test_a_picture_that_is_too_wide_is_cut() -> None:
    lines = [unpaint(line.text) for line in manual_lines("a: b\n\n  ┌ abcdefgh\n  └ ij", 8)]
    assert lines == ["a: b", "", "┌ abcde…", "└ ij"]
