"""What kubectl has a command for and the lab has another way to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubenetlab.errors import UsageError, nearest

_BY_MANIFEST = "change the manifest, then: kubenetlab apply -f FILE"
_BY_NODE = "a Node's document says spec.unschedulable and spec.taints: kubenetlab apply -f FILE (docs/manifests.md)"

INSTEAD: Final[Mapping[str, str]] = {
    **dict.fromkeys(("annotate", "autoscale", "create", "edit", "expose", "label", "patch", "replace", "run", "set"), _BY_MANIFEST),
    **dict.fromkeys(("cordon", "drain", "taint", "uncordon"), _BY_NODE),
    "api-resources": "the kinds and what becomes of them: kubenetlab schema, docs/manifests.md",
    "attach": "kubenetlab logs POD -f, or kubenetlab shell POD",
    "cluster-info": "kubenetlab list",
    "debug": "kubenetlab shell POD, with all programs of this machine",
    "events": "kubenetlab get events",
    "proxy": "kubenetlab port-forward",
    "top": "what a lab takes: docs/performance.md",
    "version": "kubenetlab --version",
    "wait": "up, apply and delete wait by themselves; kubenetlab rollout status",
}
"""kubectl's command → what to do here."""
_HARMFUL: Final = ("delete", "down")
"""Commands that nobody is led to by a slip of the keys."""


def no_such_command(name: str, known: Mapping[str, object]) -> UsageError:
    """The error for a word that is no command."""
    if name in INSTEAD:
        return UsageError(f"there is no command {name}: {INSTEAD[name]}")
    guess = nearest(name, [command for command in known if command not in _HARMFUL])
    return UsageError(f"there is no command {name}{f'; did you mean {guess}?' if guess else ''}; all commands: kubenetlab --help")
