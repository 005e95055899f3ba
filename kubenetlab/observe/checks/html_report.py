"""Report of a check as one HTML page without references to other files, for pull requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from kubenetlab import __version__
from kubenetlab.observe.checks.html_matrix import matrix
from kubenetlab.observe.checks.html_style import STYLE
from kubenetlab.observe.checks.html_text import breakable, count, to_html
from kubenetlab.observe.checks.verdicts import RowVerdict, State

_MAX_DIFFERENCES: Final = 200
"""Maximum number of rows in the list of differences."""
_MAX_ROWS: Final = 5000
"""Maximum number of checks in the list of all checks."""
_MAX_NAMES: Final = 4
"""Number of sources or targets of a difference that are visible; the others can be opened."""

_MARKS: Final[Mapping[State, tuple[str, str]]] = {
    "holds": ("✓", "good"),
    "fails": ("✗", "bad"),
    "untested": ("?", "warn"),
}
"""State of a check → its mark and style."""
_MARK_OF_ANY: Final = ("○", "mute")
"""Mark and style of a check that holds whatever the outcome."""


class PageNote(NamedTuple):
    """A diagnostic on the page."""

    severity: Literal["error", "accepted", "advice"]
    subject: str
    message: str
    place: str
    """file:line of the object; empty if unknown."""


class _Difference(NamedTuple):
    """Failed checks with the same expectation, place and remarks."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    expected: str
    found: Mapping[str, int]
    """Result → number of checks."""
    place: str
    remarks: tuple[str, ...]


def render_page(
    lab: str,
    verdicts: Sequence[RowVerdict],
    notes: Sequence[PageNote],
    remarks: Mapping[int, Sequence[str]],
    took_s: float,
) -> str:
    """Return the page.

    remarks: index of a verdict → lines that are shown with it. took_s: duration in seconds.
    """
    failing = sum(verdict.state == "fails" for verdict in verdicts)
    untested = sum(verdict.state == "untested" for verdict in verdicts)
    is_holding = not (failing or untested)
    undecided = sum(verdict.expected == "any" for verdict in verdicts) if is_holding else 0
    errors = sum(note.severity == "error" for note in notes)
    is_fine = not (failing or untested or errors)
    headline = ", ".join(
        (
            _result(len(verdicts), failing, untested),
            *((f"{undecided} of them whatever the outcome",) if undecided else ()),
            *((count(errors, "diagnostic"),) if errors else ()),
        )
    )
    mark = "✓" if is_fine else "✗"
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        f"<title>{mark} kubenetlab check: {to_html(lab)}</title>",
        f"<style>\n{STYLE}</style></head>",
        "<body>",
        f'<header class="{"good" if is_fine else "bad"}">',
        f"<h1>{mark} {headline}</h1>",
        f'<p class="mute">Lab <b>{to_html(lab)}</b>, {took_s:.2f} s, '
        f"kubenetlab {to_html(__version__)}. "
        "Each check is a packet from inside the network namespace of its source.</p>",
        *_bar(len(verdicts) - failing - untested, failing, untested),
        "</header>",
        "<main>",
        *_differences(verdicts, remarks),
        *(_notes([note for note in notes if note.severity == "error"], "Diagnostics")),
        *matrix(verdicts),
        *(_notes([note for note in notes if note.severity != "error"], "Advice")),
        *_all_checks(verdicts, remarks),
        "</main>",
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _result(total: int, failing: int, untested: int) -> str:
    """Return the result of all checks, such as `2 of 7 checks fail, 1 not testable`."""
    if failing:
        result = f"{failing} of {count(total, 'check')} fail{'s' if failing == 1 else ''}"
        return f"{result}, {untested} not testable" if untested else result
    if untested:
        return f"{untested} of {count(total, 'check')} not testable"
    return "The check holds" if total == 1 else f"All {total} checks hold"


def _bar(holding: int, failing: int, untested: int) -> Iterator[str]:
    """Yield a bar with the shares of checks that hold, fail, and are not testable."""
    total = holding + failing + untested
    if not total:
        return
    parts = (
        f'<i class="{style}" style="width: {100 * number / total:.3f}%"></i>' if number else ""
        for number, style in ((holding, "good"), (failing, "bad"), (untested, "warn"))
    )
    label = f"{holding} hold, {failing} fail, {untested} not testable"
    yield f'<div class="bar" role="img" aria-label="{label}">{"".join(parts)}</div>'


# --- differences ---


def _differences(
    verdicts: Sequence[RowVerdict], remarks: Mapping[int, Sequence[str]]
) -> Iterator[str]:
    """Yield the list of the checks that do not hold, those with the same cause as one row."""
    failing = [index for index, verdict in enumerate(verdicts) if verdict.state != "holds"]
    if not failing:
        return
    rows = _merged((verdicts[index], tuple(remarks.get(index, ()))) for index in failing)
    shown = rows[:_MAX_DIFFERENCES]
    has_places = any(row.place for row in shown)
    yield f"<h2>Differences ({len(failing)})</h2>"
    yield '<table class="list"><thead><tr>'
    head = ("Source", "Target", "Expected", "Found", *(("Place",) if has_places else ()))
    yield "".join(f'<th scope="col">{title}</th>' for title in head)
    yield "</tr></thead><tbody>"
    for row in shown:
        found = ", ".join(
            f"{to_html(text)}{f' ({number})' if len(row.found) > 1 else ''}"
            for text, number in row.found.items()
        )
        reasons = "".join(f'<p class="warn">{to_html(line)}</p>' for line in row.remarks)
        place = f'<td class="place">{breakable(row.place)}</td>' if has_places else ""
        yield (
            f'<tr><td class="name" title="from">{_names(row.sources)}</td>'
            f'<td class="name" title="to">{_names(row.targets)}</td>'
            f'<td title="expected">{to_html(row.expected)}</td>'
            f'<td title="found"><span class="bad">{found}</span>{reasons}</td>{place}</tr>'
        )
    yield "</tbody></table>"
    if len(rows) > len(shown):
        yield f'<p class="mute">… and {count(len(rows) - len(shown), "row")} more.</p>'


def _merged(failures: Iterable[tuple[RowVerdict, tuple[str, ...]]]) -> list[_Difference]:
    """Return differences: first the targets of each source together, then equal sources."""
    by_source: dict[tuple[object, ...], list[tuple[RowVerdict, tuple[str, ...]]]] = {}
    for verdict, lines in failures:
        key: tuple[object, ...] = (verdict.source, verdict.expected, verdict.place, lines)
        by_source.setdefault(key, []).append((verdict, lines))
    by_targets: dict[tuple[object, ...], _Difference] = {}
    for own in by_source.values():
        verdict, lines = own[0]
        targets = tuple(dict.fromkeys(each.target for each, _ in own))
        found = Counter(each.found for each, _ in own)
        key = (targets, verdict.expected, verdict.place, lines)
        if (other := by_targets.get(key)) is not None:
            by_targets[key] = other._replace(
                sources=(*other.sources, verdict.source), found=Counter(other.found) + found
            )
        else:
            by_targets[key] = _Difference(
                (verdict.source,), targets, verdict.expected, found, verdict.place, lines
            )
    return list(by_targets.values())


def _names(names: Sequence[str]) -> str:
    """Return names one below the other, of which many are folded."""
    lines = [breakable(name) for name in names]
    if len(lines) <= _MAX_NAMES + 1:
        return "<br/>".join(lines)
    rest = lines[_MAX_NAMES:]
    return (
        f"{'<br/>'.join(lines[:_MAX_NAMES])}"
        f"<details><summary>and {len(rest)} more</summary>{'<br/>'.join(rest)}</details>"
    )


# --- other sections ---


def _notes(notes: Sequence[PageNote], title: str) -> Iterator[str]:
    """Yield a list of diagnostics; nothing without any."""
    if not notes:
        return
    styles = {"error": "bad", "accepted": "mute", "advice": "warn"}
    yield f"<h2>{title} ({len(notes)})</h2>"
    yield '<table class="list"><tbody>'
    for note in notes:
        yield (
            f'<tr><td class="{styles[note.severity]}">{to_html(note.severity)}</td>'
            f"<td><b>{to_html(note.subject)}</b><p>{to_html(note.message)}</p></td>"
            f'<td class="place">{to_html(note.place)}</td></tr>'
        )
    yield "</tbody></table>"


def _all_checks(
    verdicts: Sequence[RowVerdict], remarks: Mapping[int, Sequence[str]]
) -> Iterator[str]:
    """Yield the list of all checks, by source."""
    shown = verdicts[:_MAX_ROWS]
    title = str(len(shown)) if len(shown) == len(verdicts) else f"{len(shown)} of {len(verdicts)}"
    yield f'<details><summary class="section">All checks ({title})</summary>'
    yield '<table class="list all"><thead><tr>'
    head = ("Target", "Expected", "Found", "Time", "Place")
    yield "".join(f'<th scope="col">{name}</th>' for name in head)
    yield "</tr></thead>"
    by_source: dict[str, list[tuple[int, RowVerdict]]] = {}
    for index, verdict in enumerate(shown):
        by_source.setdefault(verdict.source, []).append((index, verdict))
    for source, own in by_source.items():
        yield (
            f'<tbody><tr><th class="group" scope="rowgroup" colspan="5">{to_html(source)}</th></tr>'
        )
        for index, verdict in own:
            is_any = verdict.state == "holds" and verdict.expected == "any"
            mark, style = _MARK_OF_ANY if is_any else _MARKS[verdict.state]
            lines = "".join(f"<p>{to_html(line)}</p>" for line in remarks.get(index, ()))
            yield (
                f'<tr><td><span class="{style}">{mark}</span> {to_html(verdict.target)}</td>'
                f"<td>{to_html(verdict.expected)}</td><td>{to_html(verdict.found)}{lines}</td>"
                f"<td>{f'{verdict.ms:.2f} ms' if verdict.ms else ''}</td>"
                f"<td>{to_html(verdict.place)}</td></tr>"
            )
        yield "</tbody>"
    yield "</table></details>"
