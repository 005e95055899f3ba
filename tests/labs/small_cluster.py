"""Labs for comparisons: a small cluster with one pod on each of two workers.

No other pods run, so that the CNI mode makes all that is in the kernel: the Deployment coredns has
no replicas, and there is no kube-proxy.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.labs.lab import Lab
from tests.patience import patiently

NODES: Final = ("control-plane", "n1", "n2")
PODS: Final = {"a": "n1", "c": "n2"}
"""Name of a pod → its node."""
_NODES: Final = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{{role: control-plane}}, {{role: worker, name: n1}}, {{role: worker, name: n2}}]
networking: {{ipFamily: {family}, cni: {cni}, kubeProxyMode: none}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coredns, namespace: kube-system}}
spec:
  replicas: 0
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec: {{containers: [{{name: coredns, image: coredns}}]}}
"""
_POD: Final = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost}}]}}
"""
_RUN_NETNS: Final = "/run/netns"
_SETTINGS: Final = (
    "net/ipv4/ping_group_range",
    *(
        f"net/ipv6/conf/{name}/{setting}"
        for setting in ("disable_ipv6", "accept_ra", "accept_redirects", "addr_gen_mode")
        for name in ("all", "default", "lo")
    ),
    "net/ipv6/conf/default/accept_dad",
)
"""Sysctls that a container runtime sets; those of `all` change the others."""


def manifest(cni: str, family: str = "ipv4", *, has_pods: bool = True) -> str:
    """Return the cluster with a CNI mode, which may have options: `{type: flannel, vni: 2}`."""
    pods = [_POD.format(name=name, node=node) for name, node in PODS.items()]
    return _NODES.format(family=family, cni=cni) + "".join(pods if has_pods else ())


@contextmanager
def pod_namespaces(lab: Lab, like: Lab) -> Iterator[dict[str, str]]:
    """Make a network namespace for each pod, with names as if the lab had the pods.

    The lab itself has no pods, because its CNI mode is `none`. The namespaces get those sysctls
    that a container runtime sets, from the pods of the lab `like`.
    """
    names = {pod: f"{lab.name}_pod_default_{pod}" for pod in PODS}
    was_mounted = _is_mounted()
    try:
        for pod, name in names.items():
            _ip("netns", "add", name)
            _copy_settings(like.pod(pod)["netns"], f"{_RUN_NETNS}/{name}")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names.values():
            if Path(_RUN_NETNS, name).exists():
                _ip("netns", "delete", name)
        # `ip netns add` mounts the directory on itself, for good.
        if not was_mounted and _is_mounted():
            _run("umount", _RUN_NETNS)


def _is_mounted() -> bool:
    """Return True if /run/netns is a mount point. Python's `ismount` does not see bind mounts."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == _RUN_NETNS for line in mounts)


def _copy_settings(source: str, target: str) -> None:
    """Set the sysctls of the namespace `target` as they are in `source`."""
    values = _run("nsenter", f"--net={source}", "sysctl", *_SETTINGS)
    _run("nsenter", f"--net={target}", "sysctl", "-q", "-p", "-", stdin=values)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*command: str, stdin: str = "") -> str:
    return subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, text=True, check=True, timeout=patiently(10)
    ).stdout
