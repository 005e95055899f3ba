"""Printed form of plans and of differences between the kernel and the desired state."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.terminal.printing import echo
from kubenetlab.cli.terminal.theme import ADDED, BREAK, CHANGED, HEADING, MUTED, REMOVED, paint

_STYLES = {"+": ADDED, "-": REMOVED, "~": CHANGED}
_MARKS = (
    ("+", ADDED, "missing in the kernel"),
    ("-", REMOVED, "in the kernel only"),
    ("~", CHANGED, "changed in the kernel"),
    ("?", None, "not compared"),
)
"""(mark, colour, meaning) of the marks of `diff`. In a plan, + adds, - removes, ~ changes."""
_REMARK, _WAS = "    (", "(was: "
_SYSCTL, _ELEMENT = "sysctl ", "nft element "


def show_changes(changes: Sequence[JsonObject], *, is_wide: bool = False) -> None:
    """Print operations per namespace; fold settings and set elements unless `is_wide`."""
    _show(
        changes, lambda entry: entry["operations"] if is_wide else fold(entry["operations"], "+ ")
    )


def show_differences(changes: Sequence[JsonObject], *, is_wide: bool = False) -> None:
    """Print the differences that `diff` reports, per namespace.

    Settings of one namespace share a line. With `is_wide` each has its own, and a missing, emptied
    or additional chain, set or map is followed by its content.
    """
    _show(
        changes,
        lambda entry: (
            _with_content(entry)
            if is_wide
            else fold(entry["operations"], "+ ", counts_elements=False)
        ),
        "difference",
    )
    marks = {line[:1] for entry in changes for line in entry["operations"]}
    echo(
        "  ".join(
            f"{paint(mark, colour)} {meaning}" for mark, colour, meaning in _MARKS if mark in marks
        )
    )


def _with_content(entry: JsonObject) -> Iterator[str]:
    for difference in entry["differences"]:
        line = difference["line"]
        yield line
        content = (
            difference.get("observed" if difference["action"] == "remove" else "desired") or ""
        )
        if content not in line:
            yield from (f"    {text}" for text in content.splitlines())


def _show(
    changes: Sequence[JsonObject],
    lines_of: Callable[[JsonObject], Iterable[str]],
    noun: str = "operation",
) -> None:
    for entry in changes:
        echo(paint(entry["netns"], HEADING))
        if lines := [f"  {_paint_line(line)}" for line in lines_of(entry)]:
            echo("\n".join(lines), indent=6)  # at once: a plan may have ten thousand lines
    count = sum(len(entry["operations"]) for entry in changes)
    namespaces = f"{len(changes)} namespace{'s' if len(changes) != 1 else ''}"
    echo(f"{count} {noun}{'s' if count != 1 else ''} in {namespaces}" if count else "nothing to do")


def _paint_line(line: str) -> str:
    """Return a line of a diff in its colours, with the observed state on a line of its own.

    Of a change, the words are painted in which the two states differ.
    """
    mark = line[:1]
    desired, separator, remark = line.partition(_REMARK)
    if mark != "~" or not separator:
        return paint(line, _STYLES.get(mark))
    remark = "(" + remark
    if remark.startswith(_WAS):
        desired, observed = _paint_differences(desired[2:], remark[len(_WAS) : -1])
        return f"{paint(mark, CHANGED)} {desired}{BREAK}{paint(f'{_WAS}{observed})', MUTED)}"
    return f"{paint(mark, CHANGED)} {desired[2:]}{BREAK}{paint(remark, MUTED)}"


def _paint_differences(desired: str, observed: str) -> tuple[str, str]:
    """Return two texts in which the words that differ are painted."""
    from difflib import SequenceMatcher

    before, after = re.split("( )", observed), re.split("( )", desired)
    # An observed state that is only the end of the line, such as `0 rules`, has no other beginning.
    missing = len(after) - len(before) if before[0] != after[0] else 0
    painted_before, painted_after = "", "".join(after[: max(0, missing)])
    after = after[max(0, missing) :]
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for action, start, end, new_start, new_end in matcher.get_opcodes():
        old, new = "".join(before[start:end]), "".join(after[new_start:new_end])
        is_same = action == "equal"
        painted_before += old if is_same else paint(old, REMOVED)
        painted_after += new if is_same else paint(new, ADDED)
    return painted_after, painted_before


def fold(lines: Iterable[str], mark: str = "", *, counts_elements: bool = True) -> Iterable[str]:
    """Yield lines with runs of sysctl settings joined and elements counted per set.

    mark: prefix of the lines that can be folded, repeated before the folded line.
    """
    settings: list[str] = []
    elements: dict[str, int] = {}
    for line in lines:
        if line.startswith(mark + _SYSCTL):
            settings.append(
                line.removeprefix(mark + _SYSCTL).replace(" = ", "=").removeprefix("net.")
            )
        elif counts_elements and line.startswith(mark + _ELEMENT):
            collection = line.removeprefix(mark + _ELEMENT).partition(" {")[0]
            elements[collection] = elements.get(collection, 0) + 1
        else:
            if settings:
                yield mark + _settings(settings)
                settings = []
            yield line
    if settings:
        yield mark + _settings(settings)
    for collection, count in elements.items():
        yield f"{mark}nft elements of {collection}: {count}"


def _settings(settings: Sequence[str]) -> str:
    changed = [setting for setting in settings if not setting.endswith("=0")]
    rest = ", all others 0" if len(changed) < len(settings) else ""
    return f"{len(settings)} settings below net: {', '.join(changed).replace(chr(9), ' ')}{rest}"
