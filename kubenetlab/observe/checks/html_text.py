"""Text of the page of a check."""

from __future__ import annotations

from html import escape

from kubenetlab.errors import escape_control_characters


def to_html(text: str) -> str:
    """Return text for HTML; names and replies of programs may contain any character."""
    return escape(escape_control_characters(text))


def breakable(text: str) -> str:
    """Return a name for HTML that a narrow column may divide behind a slash or a colon."""
    return to_html(text).replace("/", "/<wbr/>").replace(":", ":<wbr/>")


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 check`, `2 checks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
