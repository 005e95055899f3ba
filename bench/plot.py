"""Plots as SVG: one line for each name, with logarithmic axes, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, log10
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#2f6fde", "#8a63d2", "#d9622b", "#2b9a66", "#c2417c")
_STYLE = (
    "text{font:13px sans-serif;fill:#57606a}.grid{stroke:#8c959f;stroke-opacity:.3}"
    ".line{fill:none;stroke-width:2.5}"
)

Points = Sequence[tuple[float, float]]


def svg(title: str, x_title: str, y_title: str, lines: Mapping[str, Points]) -> str:
    """Return the plot. Every value has to be above zero."""
    points = [point for line in lines.values() for point in line]
    x_range, y_range = (_decades([point[axis] for point in points]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = (_share(value, span) for value, span in zip(point, (x_range, y_range), strict=True))
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>',
        f'<text x="{LEFT}" y="22" font-weight="bold">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" '
        f'text-anchor="middle">{escape(x_title)}</text>',
        f'<text transform="translate(18 {HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text>',
    ]
    for value in _ticks(x_range):
        x, _ = place((value, 10 ** y_range[0]))
        parts.append(
            f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{value:,.0f}</text>'
        )
    for value in _ticks(y_range):
        _, y = place((10 ** x_range[0], value))
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,.0f}</text>'
        )
    ends = _separate({name: place(line[-1])[1] for name, line in lines.items()})
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in map(place, line))
        parts.append(f'<path class="line" stroke="{colour}" d="M{path}"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
            for x, y in map(place, line)
        ]
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{ends[name] + 4:.1f}" '
            f'style="fill:{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return low, max(high, low + 1)


def _share(value: float, span: tuple[int, int]) -> float:
    return (log10(value) - span[0]) / (span[1] - span[0])


def _ticks(span: tuple[int, int]) -> Iterator[float]:
    yield from (10.0**power for power in range(span[0], span[1] + 1))


def _separate(heights: Mapping[str, float], gap: float = 16) -> dict[str, float]:
    """Return the heights of labels at the ends of lines, at least `gap` pixels apart."""
    positions: dict[str, float] = {}
    last = float("-inf")
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        positions[name] = last = max(height, last + gap)
    return positions
