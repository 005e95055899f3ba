"""Sentences about the connections that a change of manifests opens and closes, for a review."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.observe.changes.changes import NEW, REMOVED, Change

_MAX_NAMED = 4
"""Maximum number of groups that a sentence names; the others are counted."""


def sentences(changes: Sequence[Change]) -> Iterator[str]:
    """Yield a summary, and one sentence for each change, those that open connections first."""
    yield summary(changes)
    for kind in ("opened", "closed"):
        for change in changes:
            if change.change == kind:
                yield f"- {_sentence(change)}"


def summary(changes: Sequence[Change]) -> str:
    """Return one line with the numbers of connections."""
    if not changes:
        return "The change opens and closes no connection."
    counts = {
        kind: sum(change.count for change in changes if change.change == kind)
        for kind in ("opened", "closed")
    }
    parts = [
        f"{verb} {counts[kind]} connection{'' if counts[kind] == 1 else 's'}"
        for kind, verb in (("opened", "opens"), ("closed", "closes"))
        if counts[kind]
    ]
    return f"The change {' and '.join(parts)}."


def _sentence(change: Change) -> str:
    is_opened = change.change == "opened"
    can = "can now connect" if is_opened else "can no longer connect"
    extent = ""
    if change.after == "partly":
        extent = ", in part" if is_opened else ", in part (some pods still can)"
    ports = _listed(change.ports)
    reasons = "; ".join(change.reasons)
    if reasons in (NEW, REMOVED):
        return (
            f"{reasons.capitalize()}: {_listed(change.sources)} "
            f"{'can' if is_opened else 'could'} connect to {_listed(change.destinations)} on "
            f"{ports}."
        )
    return (
        f"{'Opened' if is_opened else 'Closed'}: {_listed(change.sources)} {can} to "
        f"{_listed(change.destinations)} on {ports}{extent}: {reasons}."
    )


def _listed(titles: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and 3 more`."""
    if len(titles) > _MAX_NAMED:
        shown = titles[: _MAX_NAMED - 1]
        return f"{', '.join(shown)} and {len(titles) - len(shown)} more"
    return " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))
