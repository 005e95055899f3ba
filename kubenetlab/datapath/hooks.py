"""Lifecycle hooks that the kubelet of a node runs now.

postStart runs when a container has started. preStop runs when its pod terminates, or when the
container is killed after a failed probe.

A hook is sent to the node agent like a probe, and its result comes back like a probe's. It runs
once for each run of the container, and again after a restart of the node agent: Kubernetes promises
execution at least once, too.
Source: k8s.io/kubernetes pkg/kubelet/lifecycle/handlers.go, 1.33.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from msgspec import structs

from kubenetlab.api.containers import Container, LifecycleHandler
from kubenetlab.api.lab import HookKind
from kubenetlab.api.pods import ContainerStatus, Pod
from kubenetlab.api.values.durations import duration_s
from kubenetlab.controllers.kubelet.containers import should_run
from kubenetlab.controllers.kubelet.stopping import grace_s, runs_pre_stop
from kubenetlab.datapath.containers import Setups
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.probes import ProbeSpec, port_number
from kubenetlab.datapath.view import NodeView
from kubenetlab.programs import COMMAND

POST_START_TIMEOUT_S: Final = 86_400.0
"""Timeout of postStart hooks in seconds. The kubelet has no limit."""


def hooks(
    node: NodeView, view: PodView, pod: Pod, setups: Setups, killed: Collection[str]
) -> Iterator[ProbeSpec]:
    """Yield the hooks of one pod that run now, or have run and still count.

    killed: containers that are killed when their preStop hook has finished.
    """
    for container in pod.spec.long_running_containers:
        status = pod.container_status(container.name)
        if (
            status is not None
            and should_run(status)
            and (due := _due(pod, container, status, killed)) is not None
        ):
            kind, handler = due
            timeout_s = POST_START_TIMEOUT_S if kind == "postStart" else float(grace_s(pod))
            base = ProbeSpec(
                view.netns,
                container.name,
                status.restart_count,
                kind,
                node.netns,
                view.addresses[0],
                "none",
                timeout_s=timeout_s,
            )
            yield _spec(base, container, handler, is_real=setups[container.name].program == COMMAND)


def slept_s(command: Sequence[str]) -> float:
    """Return the total time of the `sleep` calls in a hook's command, in seconds.

    This stands for a command that cannot be run: `sleep 5`, or each `sleep` in a shell script.
    """
    words = [word for part in command for word in re.split(r"[\s;&|()]+", part)]
    pairs = itertools.pairwise(words)
    lengths = (
        duration_s(after if after[-1:].isalpha() else f"{after}s")
        for word, after in pairs
        if word.rpartition("/")[2] == "sleep"
    )
    return sum(length or 0.0 for length in lengths)


def _due(
    pod: Pod, container: Container, status: ContainerStatus, killed: Collection[str]
) -> tuple[HookKind, LifecycleHandler] | None:
    is_running = status.state.running is not None
    pre_stop, post_start = container.lifecycle.pre_stop, container.lifecycle.post_start
    if pre_stop is not None and container.name in killed:
        return "preStop", pre_stop
    if pod.is_terminating:
        return (
            ("preStop", pre_stop)
            if pre_stop is not None and is_running and runs_pre_stop(pod, container)
            else None
        )
    return ("postStart", post_start) if post_start is not None and not is_running else None


def _spec(
    base: ProbeSpec, container: Container, handler: LifecycleHandler, *, is_real: bool
) -> ProbeSpec:
    if handler.sleep is not None:
        return structs.replace(base, method="sleep", delay_s=float(handler.sleep.seconds))
    if handler.exec is not None and not is_real:
        return structs.replace(base, method="sleep", delay_s=slept_s(handler.exec.command))
    if handler.exec is not None:
        return structs.replace(base, method="exec", command=handler.exec.command)
    if (action := handler.http_get) is not None:
        headers = tuple((header.name, header.value) for header in action.http_headers)
        return structs.replace(
            base,
            method="http",
            address=action.host or base.address,
            port=port_number(container, action.port),
            path=action.path or "/",
            headers=headers,
            is_tls=action.scheme == "HTTPS",
        )
    return base
