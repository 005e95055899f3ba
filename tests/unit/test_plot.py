"""The bench's plots."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.plot import svg


def test_lines_rise_as_their_values_do() -> None:
    """Ten times as much is as far again, upwards; names do not cover one another, and may hold any sign."""
    picture = ElementTree.fromstring(
        svg(
            "a < b",
            "x",
            "y",
            {"flat": [(1, 10), (10, 10)], "<steep>": [(1, 10), (10, 100), (100, 1000)]},
        )
    )
    circles = [
        (float(found.get("cx", "")), float(found.get("cy", "")))
        for found in picture.iter()
        if found.tag.endswith("circle")
    ]
    assert circles[0] == circles[2]
    assert circles[0][1] == circles[1][1]
    (x, y), (x_later, y_later), (x_last, y_last) = circles[2:]
    assert round(x_later - x) == round(x_last - x_later) > 0
    assert round(y_later - y) == round(y_last - y_later) < 0
    names = {
        found.text: float(found.get("y", ""))
        for found in picture.iter()
        if found.text in ("flat", "<steep>")
    }
    assert abs(names["flat"] - names["<steep>"]) >= 16
