"""DaemonSets and ConfigMaps of CNI plugins, as the plugins' own manifests have them.

The init containers of these manifests copy CNI programs to the node, which the lab does not need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from kubenetlab.api.apps import DaemonSet, DaemonSetSpec
from kubenetlab.api.containers import Container, ExecAction, Probe
from kubenetlab.api.environment import ConfigMap, EnvVar
from kubenetlab.api.json_types import JsonValue
from kubenetlab.api.meta import Labels, LabelSelector, ObjectMeta
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.pods import PodSpec, PodTemplateSpec, Toleration

CHECK_PERIOD_S: Final = 2
"""Time between two checks of an agent's readiness, in seconds.

Upstream's is 10 s, which is too long for a demonstration.
"""


def daemon_set(
    agent: CniAgent,
    image: str,
    check: Sequence[str],
    *,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    labels: Labels | None = None,
) -> DaemonSet:
    """Return the DaemonSet that runs an agent on every node, before all other pods.

    check: command of the readiness probe, which the lab replaces by its own check of the node.
    labels: labels of the DaemonSet and its pods, beside those of the agent.
    """
    all_labels = {**(labels or {}), **agent.labels}
    container = Container(
        agent.container,
        image,
        args=tuple(args),
        env=tuple(EnvVar(name, value) for name, value in (env or {}).items()),
        readiness_probe=Probe(
            exec=ExecAction(tuple(check)),
            period_seconds=CHECK_PERIOD_S,
            timeout_seconds=CHECK_PERIOD_S,
            failure_threshold=2,
        ),
    )
    spec = PodSpec(
        containers=(container,),
        host_network=True,
        node_selector={"kubernetes.io/os": "linux"},
        priority_class_name="system-node-critical",
        tolerations=(Toleration(operator="Exists"),),
    )
    return DaemonSet(
        ObjectMeta(name=agent.daemon_set, namespace=agent.namespace, labels=all_labels),
        DaemonSetSpec(
            selector=LabelSelector(dict(agent.labels)),
            template=PodTemplateSpec(metadata=ObjectMeta(labels=all_labels), spec=spec),
        ),
    )


def config_map(agent: CniAgent, name: str, data: Mapping[str, str]) -> ConfigMap:
    """Return the ConfigMap of an agent."""
    return ConfigMap(ObjectMeta(name=name, namespace=agent.namespace), data)


def as_json(value: JsonValue) -> str:
    """Return a configuration in JSON as manifests have it."""
    return json.dumps(value, indent=2) + "\n"


def cni_list(name: str, *plugins: Mapping[str, JsonValue]) -> str:
    """Return a CNI configuration list, with the plugin for host ports at its end."""
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return as_json({"cniVersion": "0.3.1", "name": name, "plugins": [*plugins, portmap]})
