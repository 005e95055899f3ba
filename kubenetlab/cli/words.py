"""Objects as the command line names them: `pod web-0 web-1`, `pod/web-0 svc/web`."""

from __future__ import annotations

from collections.abc import Sequence

from kubenetlab.errors import UsageError


def kinds_and_names(command: str, what: Sequence[str]) -> list[tuple[str, str]]:
    """(word for a kind, name) of each. Raises UsageError when one has no name, or not the form of the first."""
    if "/" in what[0]:
        pairs = [(kind, name) for kind, _, name in (word.partition("/") for word in what)]
    else:
        pairs = [(what[0], name) for name in what[1:] or ("",)]
    for kind, name in pairs:
        if not kind or not name or "/" in name:
            raise UsageError(f"{command}: wanted a kind and a name, as in: {command} {_example(kind)}")
    return pairs


def _example(word: str) -> str:
    """Return what a lone word lacks: a name for a kind, and else a kind."""
    from kubenetlab.api.builtin import all_kinds
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.selecting import is_called

    if not word or find_kind(word) is not None or any(is_called(kind, word) for kind in all_kinds()):
        return f"{word or 'pod'} NAME, or {word or 'pod'}/NAME"
    return f"deployment {word}, or deployment/{word}"
