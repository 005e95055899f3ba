"""Report of a check as one HTML page without references to other files, for pull requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

from kubenetlab import __version__
from kubenetlab.errors import escape_control_characters
from kubenetlab.observe.checks.verdicts import RowVerdict

_STYLE: Final = """\
:root { color-scheme: light dark; --good: #1a7f37; --bad: #cf222e; --warn: #9a6700; --mute: #656d76;
  --line: #d0d7de; --bad-bg: #ffebe9; --page: #ffffff; --text: #1f2328; }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #f85149; --warn: #d29922;
  --mute: #8d96a0; --line: #30363d; --bad-bg: #4d1418; --page: #0d1117; --text: #e6edf3; } }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
  background: var(--page); color: var(--text); }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
summary { cursor: pointer; font-size: 1.1rem; font-weight: 600; margin: 2rem 0 .5rem; }
p.summary { font-size: 1.1rem; margin: .2rem 0; } .mute { color: var(--mute); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
td.source, td.target, td.place, code { font-family: ui-monospace, monospace; font-size: 12px;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table.matrix td, table.matrix th { padding: 0 .25rem; border: 1px solid var(--line);
  text-align: center; font-family: ui-monospace, monospace; font-size: 12px; }
table.matrix th.row { text-align: right; white-space: nowrap; font-weight: normal;
  position: sticky; left: 0; background: var(--page); }
table.matrix th.column { vertical-align: bottom; font-weight: normal; }
table.matrix th.column span { writing-mode: vertical-rl; transform: rotate(180deg);
  white-space: nowrap; }
table.matrix td.bad { background: var(--bad-bg); font-weight: bold; }
"""
_MAX_COLUMNS: Final = 200
"""Maximum number of targets in the matrix; with more, it has only those that differ."""
_MAX_ROWS: Final = 5000
"""Maximum number of checks in the list of all checks."""
_DENIALS: Final = ("deny", "reject", "drop", "refused", "nothing", "does not resolve")
"""Expectations of no connection."""


class PageNote(NamedTuple):
    """A diagnostic on the page."""

    severity: str
    """`error`, `accepted` or `advice`."""
    subject: str
    message: str
    place: str
    """file:line of the object; empty if unknown."""


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
    failing = [index for index, verdict in enumerate(verdicts) if verdict.state == "fails"]
    errors = sum(note.severity == "error" for note in notes)
    parts = [f'<span class="good">{len(verdicts) - len(failing)} hold</span>']
    parts += [f'<span class="bad">{len(failing)} fail</span>'] if failing else []
    parts += [f'<span class="bad">{errors} diagnostics</span>'] if errors else []
    is_fine = not failing and not errors
    mark = '<span class="good">✓</span>' if is_fine else '<span class="bad">✗</span>'
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        f"<title>{'✓' if is_fine else '✗'} kubenetlab check: {_text(lab)}</title>",
        f"<style>\n{_STYLE}</style></head>",
        "<body>",
        f"<h1>{mark} kubenetlab check: {_text(lab)}</h1>",
        f'<p class="summary">{len(verdicts)} checks: {", ".join(parts)}</p>',
        f'<p class="mute">{took_s:.2f} s, kubenetlab {_text(__version__)}. '
        "Every check is a packet from inside the network namespace of its source.</p>",
    ]
    if failing:
        lines += ["<h2>Differences</h2>", *_table(verdicts, failing, remarks)]
    lines += _matrix(verdicts)
    if notes:
        lines += ["<h2>Diagnostics</h2>", *_notes(notes)]
    lines += [
        f"<details><summary>All checks ({len(verdicts)})</summary>",
        *_table(verdicts, range(min(len(verdicts), _MAX_ROWS)), remarks),
        "</details>",
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _table(
    verdicts: Sequence[RowVerdict], indexes: Iterable[int], remarks: Mapping[int, Sequence[str]]
) -> Iterator[str]:
    """Yield a table with one line for each of some verdicts."""
    yield '<div class="scroll"><table>'
    head = ("", "Source", "Target", "Expected", "Found", "Time", "Place")
    yield f"<tr>{''.join(f'<th>{title}</th>' for title in head)}</tr>"
    for index in indexes:
        verdict = verdicts[index]
        is_fine = verdict.state == "holds"
        style = "good" if is_fine else "bad"
        found = _text(verdict.found)
        for remark in remarks.get(index, ()):
            found += f'<br/><span class="warn">{_text(remark)}</span>'
        yield (
            f'<tr><td class="{style}">{"✓" if is_fine else "✗"}</td>'
            f'<td class="source">{_text(verdict.source)}</td>'
            f'<td class="target">{_text(verdict.target)}</td>'
            f"<td>{_text(verdict.expected)}</td>"
            f'<td class="{style}">{found}</td>'
            f'<td class="mute">{f"{verdict.ms:.2f} ms" if verdict.ms else ""}</td>'
            f'<td class="place">{_text(verdict.place)}</td></tr>'
        )
    yield "</table></div>"


def _matrix(verdicts: Sequence[RowVerdict]) -> Iterator[str]:
    """Yield the matrix of sources and targets; nothing for a single check."""
    cells: dict[tuple[str, str], RowVerdict] = {}
    for verdict in verdicts:
        key = (verdict.source, verdict.target)
        if key not in cells or verdict.state == "fails":
            cells[key] = verdict
    columns = list(dict.fromkeys(target for _, target in cells))
    title = "Matrix"
    if len(columns) > _MAX_COLUMNS:
        differing = {target for (_, target), verdict in cells.items() if verdict.state == "fails"}
        columns = [target for target in columns if target in differing][:_MAX_COLUMNS]
        title = "Matrix of differences"
    if len(cells) < 2 or not columns:
        return
    yield f'<details open="open"><summary>{title}</summary>'
    yield '<div class="scroll"><table class="matrix">'
    names = "".join(f'<th class="column"><span>{_text(name)}</span></th>' for name in columns)
    yield f'<tr><th class="row"></th>{names}</tr>'
    for source in dict.fromkeys(source for source, _ in cells):
        marks = "".join(_cell(cells.get((source, target))) for target in columns)
        yield f'<tr><th class="row">{_text(source)}</th>{marks}</tr>'
    yield "</table></div>"
    yield (
        '<p class="mute"><span class="good">●</span> connects, as expected \u00a0 · does not, as '
        'expected \u00a0 <span class="bad">✗</span> does not, against the expectation \u00a0 '
        '<span class="bad">!</span> connects, against the expectation</p></details>'
    )


def _cell(verdict: RowVerdict | None) -> str:
    """Return the cell of the matrix for a verdict; an empty one for None."""
    if verdict is None:
        return "<td></td>"
    is_denial = verdict.expected.partition(",")[0] in _DENIALS
    if verdict.state == "fails":
        mark, style = "!" if is_denial else "✗", "bad"
    elif is_denial or verdict.found in ("refused", "unreachable", "silence"):
        mark, style = "·", "mute"
    else:
        mark, style = "●", "good"
    text = (
        f"{verdict.source} → {verdict.target}: expected {verdict.expected}, found {verdict.found}"
    )
    return f'<td class="{style}" title="{_text(text)}">{mark}</td>'


def _notes(notes: Sequence[PageNote]) -> Iterator[str]:
    """Yield the table of diagnostics."""
    styles = {"error": "bad", "accepted": "mute", "advice": "warn"}
    yield '<div class="scroll"><table>'
    for note in notes:
        yield (
            f'<tr><td class="{styles[note.severity]}">{_text(note.severity)}</td>'
            f"<td><b>{_text(note.subject)}</b><br/>{_text(note.message)}</td>"
            f'<td class="place">{_text(note.place)}</td></tr>'
        )
    yield "</table></div>"


def _text(text: str) -> str:
    """Return text for HTML; names and replies of programs may contain any character."""
    return escape(escape_control_characters(text))
