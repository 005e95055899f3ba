"""Matrix of the page of a check: a cell for each source and target, grouped by namespace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, Literal, NamedTuple

from kubenetlab.observe.checks.html_text import to_html
from kubenetlab.observe.checks.verdicts import RowVerdict

_MAX_COLUMNS: Final = 200
"""Maximum number of targets in the matrix; with more, it has only those that differ."""
DENIALS: Final = ("deny", "reject", "drop", "refused", "nothing", "does not resolve")
"""Expectations of no connection."""
_LAST: Final = ("kube-system", "node ports", "nodes", "outside", "others")
"""Groups that follow the namespaces of users."""
_PREFIXES: Final = {"node": "nodes", "ext": "outside", "nodeport": "node ports"}
"""Prefix of a title → its group."""

Mark = Literal["y", "n", "lost", "open", "other", "u", "any"]
KEYS: Final[Mapping[Mark, str]] = {
    "y": "connects, as expected",
    "n": "does not connect, as expected",
    "lost": "does not connect, but should",
    "open": "connects, but should not",
    "other": "another answer than expected",
    "u": "not testable",
    "any": "holds whatever the outcome",
}
"""Mark of a cell, which is its class in the style sheet → its meaning."""


class _Label(NamedTuple):
    """Source or target in the head of a row or column."""

    group: str
    """Namespace, or a group of its own for nodes and hosts outside."""
    text: str
    title: str
    """Title in the verdicts."""


def matrix(verdicts: Sequence[RowVerdict]) -> Iterator[str]:
    """Yield the lines of the matrix; nothing for a single check."""
    cells: dict[tuple[str, str], RowVerdict] = {}
    for verdict in verdicts:
        key = (verdict.source, verdict.target)
        if key not in cells or mark_of(verdict) not in ("y", "n", "any"):
            cells[key] = verdict
    targets: Iterable[str] = dict.fromkeys(target for _, target in cells)
    title = "Matrix"
    if len(set(targets)) > _MAX_COLUMNS:
        differing = {target for (_, target), verdict in cells.items() if verdict.state != "holds"}
        targets = [target for target in targets if target in differing][:_MAX_COLUMNS]
        title = "Matrix of differences"
    columns = _grouped(targets)
    rows = _grouped(dict.fromkeys(source for source, target in cells if target in set(targets)))
    if len(cells) < 2 or not columns:
        return
    yield f'<details open="open"><summary class="section">{title}</summary>'
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Matrix"><div class="clip">'
    width = max(len(label.text) for label in rows)
    yield f'<table class="matrix" style="--row: {width}ch">'
    yield '<caption class="hidden">Result for each source (rows) and target (columns)</caption>'
    yield from _head(columns)
    yield "<tbody>"
    for group, labels in groupby(rows, lambda label: label.group):
        yield (
            f'<tr><th class="group" scope="rowgroup" colspan="{len(columns) + 1}">'
            f"<span>{to_html(group)}</span></th></tr>"
        )
        for label in labels:
            marks = "".join(_cell(cells.get((label.title, column.title))) for column in columns)
            yield f'<tr><th class="row" scope="row">{to_html(label.text)}</th>{marks}</tr>'
    yield "</tbody></table></div></div>"
    used = {mark_of(verdict) for verdict in cells.values()}
    keys = (f'<li class="{key} key">{text}</li>' for key, text in KEYS.items() if key in used)
    yield f'<ul class="keys">{"".join(keys)}</ul></details>'


def _head(columns: Sequence[_Label]) -> Iterator[str]:
    """Yield the two rows of the head: groups, and targets."""
    groups = ((name, list(labels)) for name, labels in groupby(columns, lambda label: label.group))
    names = "".join(
        f'<th class="group" scope="colgroup" colspan="{len(labels)}">'
        f"<span>{to_html(name)}</span></th>"
        for name, labels in groups
    )
    targets = "".join(
        f'<th class="column" scope="col"><span>{to_html(column.text)}</span></th>'
        for column in columns
    )
    yield f'<thead><tr><td rowspan="2"></td>{names}</tr><tr>{targets}</tr></thead>'


def mark_of(verdict: RowVerdict) -> Mark:
    """Return the mark of the cell of a verdict."""
    is_denial = verdict.expected.partition(",")[0] in DENIALS
    match verdict.state:
        case "fails":
            is_answered = verdict.found.partition(",")[0] == "answer"
            if is_denial == is_answered:
                return "open" if is_denial else "lost"
            return "other"  # refused instead of dropped, or another client address
        case "untested":
            return "u"
        case "holds" if verdict.expected == "any":
            return "any"
        case "holds":
            is_closed = is_denial or verdict.found in ("refused", "unreachable", "silence")
            return "n" if is_closed else "y"


def _cell(verdict: RowVerdict | None) -> str:
    """Return the cell of a verdict; an empty one for None. Cells as expected have no title."""
    if verdict is None:
        return "<td></td>"
    mark = mark_of(verdict)
    if mark in ("y", "n"):
        return f'<td class="{mark}">{"connects" if mark == "y" else "does not connect"}</td>'
    text = (
        f"{verdict.source} → {verdict.target}: expected {verdict.expected}, found {verdict.found}"
    )
    return f'<td class="{mark}" title="{to_html(text)}">{KEYS[mark]}</td>'


def _grouped(titles: Iterable[str]) -> list[_Label]:
    """Return titles by group: namespaces of users in their order, then the others."""
    labels = list(map(_label, titles))
    order = {group: number for number, group in enumerate(dict.fromkeys(x.group for x in labels))}
    order |= {group: len(labels) + number for number, group in enumerate(_LAST)}
    return sorted(labels, key=lambda label: order[label.group])


def _label(title: str) -> _Label:
    """Return the label of a title, such as `default/web:80/TCP`, `svc:shop/web:80/TCP`, `node:a`.

    Addresses, DNS names and URLs have no namespace.
    """
    prefix, colon, rest = title.partition(":")
    if colon and prefix in _PREFIXES:
        return _Label(_PREFIXES[prefix], rest, title)
    is_service = prefix in ("svc", "lb")
    namespace, slash, name = (rest if is_service else title).partition("/")
    if not (slash and name) or not namespace.replace("-", "").isalnum():
        return _Label("others", title, title)
    return _Label(namespace, f"{prefix}:{name}" if is_service else name, title)
