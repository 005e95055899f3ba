"""Objects as the command line names them: `pod web-0 web-1`, `pod/web-0 svc/web`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kubenetlab.errors import UsageError

_EXAMPLE_KIND: Final[Mapping[str, str]] = dict.fromkeys(
    ("scale", "rollout restart", "rollout status"), "deployment"
)
"""Kind in the example of a command that does not take pods."""


def parse_object_names(command: str, what: Sequence[str]) -> list[tuple[str, str]]:
    """(word for a kind, name) of each. Raises UsageError when one has no name, or not the form of the first."""
    if "/" in what[0]:
        pairs = [(kind, name) for kind, _, name in (word.partition("/") for word in what)]
    else:
        pairs = [(what[0], name) for name in what[1:] or ("",)]
    for kind, name in pairs:
        if not kind or not name or "/" in name:
            raise UsageError(
                f"{command}: wanted a kind and a name, as in: {_example(command, kind)}"
            )
    return pairs


def _example(command: str, word: str) -> str:
    """Return the command with a kind and a name; a word that is no kind is taken for the name."""
    from kubenetlab.api import builtin
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.input.selection import is_kind_name

    is_kind = find_kind(word) is not None or any(
        is_kind_name(kind, word) for kind in builtin.all_kinds()
    )
    kind, name = (word, "NAME") if is_kind else (_EXAMPLE_KIND.get(command, "pod"), word or "NAME")
    return f"{command} {kind} {name}, or {kind}/{name}"
