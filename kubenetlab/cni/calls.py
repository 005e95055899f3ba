"""Calls of plugins that one process asks another for, and what a container runtime makes of them.

A pod is attached once: if the result of an earlier ADD for the same sandbox is kept, it counts, so
that a caller that has missed the answer can ask again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cni import conflist
from kubenetlab.cni.capabilities import (
    POD_INTERFACE,
    BandwidthError,
    PodSandbox,
    capability_arguments,
)
from kubenetlab.cni.conflist import NetworkList
from kubenetlab.cni.failures import CniError
from kubenetlab.cni.invocations import Arguments, Attachment
from kubenetlab.cni.results import Result
from kubenetlab.cni.runtime import Runtime


class NodePlugins(Struct, frozen=True):
    """Plugins of one node."""

    document: JsonMapping
    """Configuration list of the node."""
    directories: tuple[str, ...]
    """Directories in which programs are searched."""
    timeout_s: float
    """Time limit of each call of a plugin, in seconds."""

    @property
    def network(self) -> NetworkList:
        """The configuration list. Raises CniError if it is not valid."""
        network, findings = conflist.load(self.document)
        if network is None:
            raise CniError("; ".join(finding.message for finding in findings))
        return network

    @property
    def have_status(self) -> bool:
        """True if the plugins have the command STATUS."""
        network, _ = conflist.load(self.document)
        return network is not None and conflist.is_at_least(network.version, "1.1.0")


class AttachedPod(Struct, frozen=True):
    """Result of ADD, as far as the lab uses it."""

    addresses: tuple[str, ...]
    """Addresses without prefix length, at most one per IP family."""
    host_ifname: str
    """Node's end of the pod's link; empty if the plugins do not name one."""


def attach(
    runtime: Runtime, network: NetworkList, pod: PodSandbox, *, is_retry: bool
) -> AttachedPod:
    """Attach a pod, unless it is attached already. Raises CniError.

    is_retry: True if a former call for this sandbox may have done a part of the work.
    """
    arguments = arguments_of(pod)
    result = runtime.result_of(network, arguments)
    if result is None:
        if is_retry:
            # The former call may have been interrupted, and plugins refuse to do a work twice.
            with suppress(CniError):
                runtime.delete(network, arguments)
        result = runtime.add(network, arguments)
    addresses = result.addresses_of(pod.netns, pod.ifname)
    if not addresses:
        with suppress(CniError):
            runtime.delete(network, arguments)
        raise CniError(f'failed to find network info for sandbox "{pod.container_id}"')
    return AttachedPod(addresses, _host_interface(result))


def check(runtime: Runtime, network: NetworkList, pod: PodSandbox) -> None:
    """Ask the plugins whether the pod's network is as they have left it.

    Does nothing for lists before 0.4.0, which have no CHECK, and for lists with `disableCheck`.
    Raises CniError for a difference.
    """
    if conflist.is_at_least(network.version, "0.4.0"):
        runtime.check(network, arguments_of(pod))


def arguments_of(pod: PodSandbox) -> Arguments:
    """Return the arguments of the calls for a pod. Raises CniError for an invalid annotation."""
    try:
        capabilities = capability_arguments(pod)
    except BandwidthError as error:
        raise CniError(str(error)) from error
    return Arguments(pod.container_id, pod.netns, pod.ifname, pod.arguments, capabilities)


def collect_garbage(runtime: Runtime, network: NetworkList, valid: Sequence[str]) -> None:
    """Detach all sandboxes of the network but those with the given identifiers."""
    runtime.collect_garbage(network, [Attachment(each, POD_INTERFACE) for each in valid])


def sandbox_failure(container_id: str, error: CniError) -> str:
    """Return the kubelet's message about a pod whose plugins have failed.

    Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_sandbox.go; containerd
    internal/cri/server/sandbox_run.go.
    """
    return (
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network"
        f' for sandbox "{container_id}": {error.explained}'
    )


def _host_interface(result: Result) -> str:
    """Return the node's end of the pod's link: the last interface of the node.

    Plugins such as bridge list the bridge first, and then the port of the pod.
    """
    names = result.host_interfaces()
    return names[-1] if names else ""
