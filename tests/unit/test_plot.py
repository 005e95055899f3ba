"""Plots of benchmarks."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.plot import svg


def test_axes_are_logarithmic() -> None:
    """Each factor of ten has the same length; labels do not overlap."""
    picture = ElementTree.fromstring(
        svg(
            "a < b",
            "x",
            "y",
            {"flat": [(1, 10), (10, 10)], "<steep>": [(1, 10), (10, 100), (100, 1000)]},
        )
    )
    circles = [
        (float(element.get("cx", "")), float(element.get("cy", "")))
        for element in picture.iter()
        if element.tag.endswith("circle")
    ]
    assert circles[0] == circles[2]
    assert circles[0][1] == circles[1][1]
    (x, y), (x_later, y_later), (x_last, y_last) = circles[2:]
    assert round(x_later - x) == round(x_last - x_later) > 0
    assert round(y_later - y) == round(y_last - y_later) < 0
    names = {
        element.text: float(element.get("y", ""))
        for element in picture.iter()
        if element.text in ("flat", "<steep>")
    }
    assert abs(names["flat"] - names["<steep>"]) >= 16
