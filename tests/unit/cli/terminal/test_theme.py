"""Styles by name, and texts that carry them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from kubenetlab.cli.terminal.theme import BAD, GOOD, MUTED, STYLES, paint, sgr, spans, unpaint


@pytest.mark.parametrize("name", STYLES)
def test_a_style_is_the_same_with_and_without_rich(name: str) -> None:
    """Lines are coloured without rich, tables by rich: both use the same control sequences."""
    from rich.color import ColorSystem

    drawn = Style.parse(STYLES[name]).render("text", color_system=ColorSystem.STANDARD)
    assert drawn == f"{sgr(name)}text\x1b[0m"


def test_the_innermost_style_counts() -> None:
    inner = paint("c", BAD)
    text = f"a{paint(f'b{inner}d', MUTED)}e{paint('', GOOD)}{paint('f', None)}"
    assert list(spans(text)) == [
        ("a", ""),
        ("b", MUTED),
        ("c", BAD),
        ("d", MUTED),
        ("ef", ""),
    ]
    assert unpaint(text) == "abcdef"


@given(st.text(), st.sampled_from(sorted(STYLES)))
def test_marks_do_not_change_the_text(text: str, style: str) -> None:
    """Marks are noncharacters, so that brackets and control characters are ordinary text."""
    plain = unpaint(text)
    assert unpaint(paint(plain, style)) == plain
    assert list(spans(paint(plain, style))) == ([(plain, style)] if plain else [])
