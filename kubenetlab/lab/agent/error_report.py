"""Messages about rules and programs that were refused, in the form of the kernel's own errors."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.rules.rulesets import RuleObject, by_backend, rule_backend
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.advice import DEPENDENCY_FAILED, advice, report, rules_advice
from kubenetlab.lab.agent.daemon_tasks import DaemonTask

_ERRNO = re.compile(r"\[Errno (\d+)\] ?")
"""The error number in Python's text of an OSError."""
_WANTED_BY = "      wanted by: "
_NAME = re.compile(r"'[^']*'")
"""A quoted name: errors that differ in names only have the same reason."""


def condense(refusals: Iterable[str], shown: int = 2) -> str:
    """Combine error messages into one report.

    A missing permission affects hundreds of objects: of messages with the same reason the first
    ones are shown, then their number. Errors that only follow from others are left out.

    shown: number of messages shown for each reason.
    """
    groups: dict[str, list[str]] = {}
    unique = list(dict.fromkeys(refusals))
    causes = [refusal for refusal in unique if "\n" in refusal and DEPENDENCY_FAILED not in refusal]
    for refusal in causes or unique:
        reason = "\n".join(line.partition(_WANTED_BY)[0] for line in refusal.splitlines()[1:])
        groups.setdefault(_NAME.sub("…", reason), []).append(refusal)
    return "\n".join(
        line
        for group in groups.values()
        for line in (
            *group[:shown],
            *(
                [f"and {len(group) - shown} more with the same reason"]
                if len(group) > shown
                else []
            ),
        )
    )


def describe_refused_rules(netns: str, name: str, error: str, desired: HostState) -> str:
    """Return the message for rules that one node refused.

    name:  rule backend, whose error text identifies the object; "" for the node agent itself.
    """
    objects = by_backend(obj for obj in desired[netns].values() if isinstance(obj, RuleObject)).get(
        name, ()
    )
    obj, planned = (rule_backend(name).failed_object(error, objects) if name else None) or (
        None,
        None,
    )
    subject = f"{netns}: cannot load rules{f': {obj}' if obj else ''}"
    return report(
        subject,
        name or "node agent",
        error,
        desired.origin(planned) if planned else None,
        rules_advice(error),
    )


def describe_refused_daemon(task: DaemonTask, error: str, desired: HostState) -> str:
    """Return the message for a daemon that cannot be started, reloaded or stopped."""
    daemon = task.daemon
    subject = f"{daemon.netns}: cannot {task.action} {daemon}"
    return report(subject, "reason", error, desired.origin(daemon), "")


def describe_refused_program(run: Object, error: str, desired: HostState) -> str:
    """Return the message for a container's program that cannot start."""
    number = _ERRNO.search(error)
    what_to_do = advice(int(number[1]), "Sandbox") if number else ""
    return report(
        f"{run.netns}: cannot start {run}",
        "reason",
        _ERRNO.sub("", error),
        desired.origin(run),
        what_to_do,
    )
