"""Equivalents of commands that other tools have, such as kubectl and kind, for error messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from shlex import join
from typing import Final

from kubenetlab.errors import UsageError, nearest

_HARMFUL: Final = ("delete", "down")
"""Commands that an error message never suggests for a mistyped one."""


def _after_f(words: Sequence[str]) -> str:
    """Return the file given with -f, or an empty text."""
    return next(
        (following for word, following in pairwise(words) if word in ("-f", "--filename")), ""
    )


def _object(words: Sequence[str]) -> str:
    """Return the first object in the arguments, such as `deployment/web`; else `KIND NAME`."""
    plain = [word for word in words if not word.startswith("-") and "=" not in word]
    return (
        plain[0]
        if plain and "/" in plain[0]
        else " ".join(plain[:2])
        if len(plain) > 1
        else "KIND NAME"
    )


def _create(words: Sequence[str]) -> str:
    if words[:1] == ["cluster"]:
        config = next((following for word, following in pairwise(words) if word == "--config"), "")
        return f"kubenetlab up{f' -f {config}' if config else ''}"
    if file := _after_f(words):
        return f"kubenetlab apply -f {file}"
    plain = [word for word in words if not word.startswith("-")]
    if plain[:1] in (["namespace"], ["ns"]) and len(plain) > 1:
        manifest = f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {plain[1]}}}}}"
        return f"echo '{manifest}' | kubenetlab apply -f -"
    arguments = join(words) or "KIND NAME"
    return f"kubectl create {arguments} --dry-run=client -o yaml | kubenetlab apply -f -"


def _edit(words: Sequence[str]) -> str:
    return f"kubenetlab get {_object(words)} -o yaml > FILE; edit it; kubenetlab apply -f FILE"


def _set(words: Sequence[str]) -> str:
    """Skip the first argument of `kubectl set`: image, env, resources or selector."""
    return _edit(words[1:])


def _edit_node(words: Sequence[str]) -> str:
    name = next(
        (
            word.removeprefix("node/")
            for word in words
            if not word.startswith("-") and word not in ("node", "nodes")
        ),
        "NODE",
    )
    return (
        f"kubenetlab get node {name} -o yaml > FILE; set spec.unschedulable or spec.taints; "
        "kubenetlab apply -f FILE"
    )


def _autoscale(words: Sequence[str]) -> str:
    return f"kubenetlab scale {_object(words)} N (a lab has no autoscaler)"


def _generate(verb: str) -> Callable[[Sequence[str]], str]:
    return lambda words: (
        f"kubectl {verb} {join(words)} --dry-run=client -o yaml | kubenetlab apply -f -"
    )


def _replace(words: Sequence[str]) -> str:
    return f"kubenetlab apply -f {_after_f(words) or 'FILE'}"


def _wait(words: Sequence[str]) -> str:
    plain = [word for word in words if not word.startswith("-")]
    if any(word.startswith(("deploy", "sts", "statefulset", "ds", "daemonset")) for word in plain):
        return f"kubenetlab rollout status {_object(words)}"
    return "kubenetlab up, which waits for all pods and Jobs; so do apply and delete"


def _of_pod(command: str) -> Callable[[Sequence[str]], str]:
    return lambda words: command.format(
        next((word.removeprefix("pod/") for word in words if not word.startswith("-")), "POD")
    )


def _copy(words: Sequence[str]) -> str:
    """Return an `exec` for the pod and the file of `cp [ns/]pod:/path .` or `cp . pod:/path`."""
    pod, _, file = next((word for word in words if ":" in word), "POD:FILE").partition(":")
    return f"kubenetlab exec {pod} -- cat {file or 'FILE'} (pods have no file system of their own)"


def _always(text: str) -> Callable[[Sequence[str]], str]:
    return lambda words: text


ALTERNATIVES: Final[Mapping[str, Callable[[Sequence[str]], str]]] = {
    "create": _create,
    **dict.fromkeys(("annotate", "edit", "label", "patch"), _edit),
    "set": _set,
    **{verb: _generate(verb) for verb in ("expose", "run")},
    "autoscale": _autoscale,
    "replace": _replace,
    **dict.fromkeys(("cordon", "drain", "taint", "uncordon"), _edit_node),
    "api-resources": _always("kubenetlab schema"),
    "api-versions": _always("kubenetlab schema"),
    "attach": _of_pod("kubenetlab logs {} -f"),
    "cluster-info": _always("kubenetlab list"),
    "config": _always("kubenetlab list, and --lab NAME on any command"),
    "auth": _always("any command; a lab has no users and no access control"),
    "cp": _copy,
    **dict.fromkeys(
        ("curl", "wget"),
        _always("kubenetlab ping POD http://NAME/, or kubenetlab exec POD -- curl http://NAME/"),
    ),
    **dict.fromkeys(
        ("dig", "host", "nslookup"), _always("kubenetlab exec POD -- getent hosts NAME")
    ),
    "debug": _of_pod("kubenetlab shell {}"),
    "events": _always("kubenetlab get events"),
    "kustomize": _always("kubenetlab apply -k DIRECTORY"),
    "load": _always("kubenetlab up (no images are needed)"),
    "proxy": _always("kubenetlab port-forward svc:NAME 8080:80"),
    "start": _always("kubenetlab up"),
    "stop": _always("kubenetlab down"),
    "destroy": _always("kubenetlab down"),
    "deploy": _always("kubenetlab up -f FILE"),
    "status": _always("kubenetlab get all -A"),
    "ls": _always("kubenetlab list"),
    "ps": _always("kubenetlab get pods -A"),
    "top": _always("kubenetlab list"),
    "version": _always("kubenetlab --version"),
    "wait": _wait,
}
"""Command of another tool → function that makes the equivalent command from its arguments."""


def unknown_command(name: str, words: Sequence[str], known: Mapping[str, object]) -> UsageError:
    """Return the error for an unknown command: its equivalent, or a similar command.

    words: the arguments after the command.
    known: the commands that exist.
    """
    if name in ALTERNATIVES:
        return UsageError(f"there is no command {name}; use: {ALTERNATIVES[name](list(words))}")
    similar = nearest(name, [command for command in known if command not in _HARMFUL])
    suggestion = f"; did you mean {similar}?" if similar else ""
    return UsageError(
        f"there is no command {name}{suggestion}; for a list of commands: kubenetlab --help"
    )
