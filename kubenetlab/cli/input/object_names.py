"""Parser of object names on the command line: `pod web-0 web-1`, or `pod/web-0 svc/web`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from kubenetlab.errors import UsageError

_EXAMPLE_KIND: Final[Mapping[str, str]] = dict.fromkeys(
    ("scale", "rollout restart", "rollout status"), "deployment"
)
"""Kind that the error message of a command uses as an example; pod for all others."""


def parse_object_names(command: str, arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return (kind as typed, name) of each object.

    Raises UsageError if a name is missing, or if the two forms are mixed.
    """
    if "/" in arguments[0]:
        pairs = [(kind, name) for kind, _, name in (word.partition("/") for word in arguments)]
    else:
        pairs = [(arguments[0], name) for name in arguments[1:] or ("",)]
    for kind, name in pairs:
        if not kind or not name or "/" in name:
            raise UsageError(
                f"{command}: expected a kind and a name, for example: {_example(command, kind)}"
            )
    return pairs


def _example(command: str, word: str) -> str:
    """Return an example for the command; a word that is not a kind is used as the name."""
    from kubenetlab.api import builtin
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.cli.input.selection import is_kind_name

    is_kind = find_kind(word) is not None or any(
        is_kind_name(kind, word) for kind in builtin.all_kinds()
    )
    kind, name = (word, "NAME") if is_kind else (_EXAMPLE_KIND.get(command, "pod"), word or "NAME")
    return f"{command} {kind} {name}, or {kind}/{name}"
