"""CNI plugins of nodes: programs that attach pods, run in a child process for each call.

The child enters the network namespace of the node and a mount namespace in which the machine's
files are read-only. /var/lib/cni and /run are directories of the node in the lab's run directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from kubenetlab.cni import cache
from kubenetlab.cni.calls import NodePlugins, arguments_of, attach, collect_garbage, sandbox_failure
from kubenetlab.cni.failures import CniError
from kubenetlab.cni.runtime import Runtime
from kubenetlab.kernel.namespaces import mounts
from kubenetlab.kernel.processes.cni_plugins import PluginExecutor, ResultFiles
from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.processes.privileges import confine_network_plugins
from kubenetlab.kernel.syscalls import CLONE_NEWNET, MS_BIND, mount, setns
from kubenetlab.lab import rundir
from kubenetlab.lab.messages.node_agent import (
    AttachPod,
    CollectGarbage,
    DetachPod,
    Node,
    PluginsFailed,
    PodAttached,
)
from kubenetlab.lab.nodeagent.forked import in_child
from kubenetlab.lab.transport.protocol import Done
from kubenetlab.names import file_name

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of plugins: some call iptables and other programs."""
NETNS_DIRECTORY: Final = "/var/run/netns"

_Answer = PodAttached | PluginsFailed | Done
_decoder: msgspec.msgpack.Decoder[_Answer] = msgspec.msgpack.Decoder(_Answer)


def netns_path(container_id: str) -> str:
    """Return the path of a sandbox's network namespace as the plugins see it."""
    return f"{NETNS_DIRECTORY}/cni-{container_id[:32]}"


class NetworkPlugins:
    """Handlers of the requests that call CNI plugins."""

    def __init__(self, directory: Path, hidden: Sequence[str]) -> None:
        """Begin without a call.

        directory: run directory of the lab.
        hidden: directories of the machine that programs inside do not see.
        """
        self._directory = directory
        # Plugins that the user has built may lie in a home directory.
        self._hidden = [path for path in hidden if str(directory).startswith(path)]

    async def attach(self, request: AttachPod) -> PodAttached | PluginsFailed:
        """Call ADD for a sandbox."""
        pod, plugins = request.sandbox, request.plugins

        def work(runtime: Runtime) -> _Answer:
            return PodAttached(attach(runtime, plugins.network, pod, is_retry=request.is_retry))

        answer = await self._call(
            request.node,
            request.plugins,
            work,
            (pod.netns, request.pause),
            lambda error: sandbox_failure(pod.container_id, error),
        )
        assert not isinstance(answer, Done)
        return answer

    async def detach(self, request: DetachPod) -> Done | PluginsFailed:
        """Call DEL for a sandbox."""
        pod, plugins = request.sandbox, request.plugins

        def work(runtime: Runtime) -> _Answer:
            runtime.delete(plugins.network, arguments_of(pod))
            return Done()

        answer = await self._call(request.node, request.plugins, work, (pod.netns, request.pause))
        assert not isinstance(answer, PodAttached)
        return answer

    async def collect_garbage(self, request: CollectGarbage) -> Done | PluginsFailed:
        """Call DEL for sandboxes that are gone, and GC."""

        def work(runtime: Runtime) -> _Answer:
            collect_garbage(runtime, request.plugins.network, request.valid)
            return Done()

        answer = await self._call(request.node, request.plugins, work)
        assert not isinstance(answer, PodAttached)
        return answer

    async def _call(
        self,
        node: Node,
        plugins: NodePlugins,
        work: Callable[[Runtime], _Answer],
        pod: tuple[str, ProcessId] | None = None,
        describe: Callable[[CniError], str] = str,
    ) -> _Answer:
        """Run `work` in a child in the namespaces of a node, and return its answer.

        pod: path of a sandbox's network namespace, and its pause process.
        describe: returns the message for an error of the plugins.
        """
        own = self._own_directories(node)

        def in_node() -> bytes:
            _enter(node, self._hidden, own, plugins.directories, pod)
            executor = PluginExecutor(plugins.directories, {"PATH": PATH}, plugins.timeout_s)
            try:
                answer = work(Runtime(executor, ResultFiles(cache.DIRECTORY)))
            except CniError as error:
                answer = PluginsFailed(describe(error))
            return msgspec.msgpack.encode(answer)

        return _decoder.decode(await in_child(in_node))

    def _own_directories(self, node: Node) -> dict[str, str]:
        """Return the directories of a node: what plugins see → where it is; create them."""
        name = file_name(node.netns.replace("/", "_"))
        # A new node of the same name begins without the files of the former one.
        base = self._directory / rundir.CNI / f"{name}.{node.pause.pid}.{node.pause.start}"
        own = {"/run": base / "run", "/var/lib/cni": base / "var-lib-cni"}
        for path in own.values():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {target: str(path) for target, path in own.items()}


def _enter(
    node: Node,
    hidden: Sequence[str],
    own: dict[str, str],
    programs: Sequence[str],
    pod: tuple[str, ProcessId] | None,
) -> None:
    """Move this process to the network of a node and to mounts for plugins, for good."""
    process = Process(node.pause)
    setns(process.pidfd, CLONE_NEWNET)
    mounts.network_plugins(hidden, own, programs)
    if pod is not None:
        path, pause = pod
        holder = Process(pause)
        # The directory is not the node's: a name in it would remain after the plugins have ended.
        os.makedirs(NETNS_DIRECTORY, exist_ok=True)
        mount("tmpfs", NETNS_DIRECTORY, "tmpfs")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        mount(f"/proc/{pause.pid}/ns/net", path, flags=MS_BIND)
        holder.close()
    process.close()
    os.chdir("/")
    confine_network_plugins()
