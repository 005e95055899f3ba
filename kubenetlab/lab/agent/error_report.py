"""What the other hands were refused, as users read it: like the kernel's own refusals, with who wanted it and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, by_backend, dialect
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.advice import WAITS, advice, report, rules_advice

_ERRNO = re.compile(r"\[Errno (\d+)\] ?")
"""As Python prints an OSError."""
_WANTED_BY = "      wanted by: "
_NAME = re.compile(r"'[^']*'")


def condensed(refusals: Iterable[str], shown: int = 2) -> str:
    """Many refusals as one report: of those with the same reason the first ones, and how many more there are.

    A permission that lacks is met by hundreds of objects. What only waits for something else that was refused is left out.
    """
    groups: dict[str, list[str]] = {}
    every = list(dict.fromkeys(refusals))
    for refusal in [
        refusal for refusal in every if "\n" in refusal and WAITS not in refusal
    ] or every:
        reason = "\n".join(line.partition(_WANTED_BY)[0] for line in refusal.splitlines()[1:])
        groups.setdefault(_NAME.sub("…", reason), []).append(refusal)
    return "\n".join(
        line
        for alike in groups.values()
        for line in (
            *alike[:shown],
            *(
                [f"and {len(alike) - shown} more with the same reason"]
                if len(alike) > shown
                else []
            ),
        )
    )


def rules_refused(netns: str, name: str, said: str, desired: HostState) -> str:
    """One node's rules. What was said in a dialect tells the object, and the plan who wants that."""
    objects = by_backend(obj for obj in desired[netns].values() if isinstance(obj, RuleObject)).get(
        name, ()
    )
    obj, whole = (dialect(name).failed_object(said, objects) if name else None) or (None, None)
    subject = f"{netns}: cannot load rules{f': {obj}' if obj else ''}"
    return report(
        subject,
        name or "node agent",
        said,
        desired.origin(whole) if whole else None,
        rules_advice(said),
    )


def program_refused(run: Object, said: str, desired: HostState) -> str:
    """A container's program."""
    number = _ERRNO.search(said)
    what_to_do = advice(int(number[1]), "Sandbox") if number else ""
    return report(
        f"{run.netns}: cannot start {run}",
        "reason",
        _ERRNO.sub("", said),
        desired.origin(run),
        what_to_do,
    )
