"""CNI plugins of nodes: programs that attach pods.

They run in the network namespace of their node and in a mount namespace in which the machine's
files are read-only, except for the node's own ones, among them /var/lib/cni.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from kubenetlab.cni import cache
from kubenetlab.cni.calls import (
    NodePlugins,
    arguments_of,
    attach,
    check,
    collect_garbage,
    sandbox_failure,
)
from kubenetlab.cni.failures import CniError
from kubenetlab.cni.runtime import Runtime
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.namespaces import mounts
from kubenetlab.kernel.processes.cni_plugins import PluginExecutor, ResultFiles
from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.processes.privileges import confine_network_plugins
from kubenetlab.kernel.syscalls import CLONE_NEWNET, set_process_name, setns
from kubenetlab.lab import rundir
from kubenetlab.lab.messages.node_agent import (
    AskStatus,
    AttachPod,
    CheckPod,
    CollectGarbage,
    DetachPod,
    Node,
    PluginsFailed,
    PodAttached,
)
from kubenetlab.lab.nodeagent.plugin_worker import PluginWorker
from kubenetlab.lab.transport.protocol import Done

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of plugins: some call iptables and other programs."""
XTABLES_LOCK: Final = "/run/lock/xtables.lock"
"""Lock of iptables, in a directory that all plugins of a node share."""
IDLE_S: Final = 1.0
"""Time after which a worker without requests is ended, in seconds."""

_ENVIRONMENT: Final = {"PATH": PATH, "XTABLES_LOCKFILE": XTABLES_LOCK}

_Request = AttachPod | DetachPod | CheckPod | CollectGarbage | AskStatus
_Answer = PodAttached | PluginsFailed | Done
_request_decoder: msgspec.msgpack.Decoder[_Request] = msgspec.msgpack.Decoder(_Request)
_answer_decoder: msgspec.msgpack.Decoder[_Answer] = msgspec.msgpack.Decoder(_Answer)
_Key = tuple[Node, tuple[str, ...]]


def netns_path(pause: ProcessId) -> str:
    """Return the path of a sandbox's network namespace as the plugins see it."""
    return f"/proc/{pause.pid}/ns/net"


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
        self._idle: dict[_Key, list[PluginWorker]] = {}

    async def attach(self, request: AttachPod) -> PodAttached | PluginsFailed:
        """Call ADD for a sandbox."""
        answer = await self._call(request)
        assert not isinstance(answer, Done)
        return answer

    async def detach(self, request: DetachPod) -> Done | PluginsFailed:
        """Call DEL for a sandbox."""
        answer = await self._call(request)
        assert not isinstance(answer, PodAttached)
        return answer

    async def check(self, request: CheckPod) -> Done | PluginsFailed:
        """Call CHECK for a sandbox."""
        answer = await self._call(request)
        assert not isinstance(answer, PodAttached)
        return answer

    async def collect_garbage(self, request: CollectGarbage) -> Done | PluginsFailed:
        """Call DEL for sandboxes that are gone, and GC."""
        answer = await self._call(request)
        assert not isinstance(answer, PodAttached)
        return answer

    async def ask_status(self, request: AskStatus) -> Done | PluginsFailed:
        """Call STATUS."""
        answer = await self._call(request)
        assert not isinstance(answer, PodAttached)
        return answer

    async def _call(self, request: _Request) -> _Answer:
        """Let a worker in the node's namespaces carry out a request."""
        key = (request.node, request.plugins.directories)
        idle = self._idle.setdefault(key, [])
        worker = idle.pop() if idle else self._start(*key)
        try:
            reply = await worker.call(msgspec.msgpack.encode(request))
        except BaseException:
            worker.close()
            raise
        loop = asyncio.get_running_loop()
        worker.idle_since = loop.time()
        self._idle.setdefault(key, []).append(worker)
        loop.call_later(IDLE_S, self._retire, key, worker)
        return _answer_decoder.decode(reply)

    def _start(self, node: Node, programs: tuple[str, ...]) -> PluginWorker:
        tree = self._tree(node.netns)
        title = f"kubenetlab {self._directory.name} plugins {node.netns}"
        enter = partial(_enter, title, node.pause, self._hidden, tree, programs)
        return PluginWorker(node.pause, enter, _answer)

    def _retire(self, key: _Key, worker: PluginWorker) -> None:
        """End a worker that has had no request for some time."""
        idle = self._idle.get(key, [])
        since = asyncio.get_running_loop().time() - worker.idle_since
        if worker in idle and since >= IDLE_S:
            idle.remove(worker)
            worker.close()
            if not idle:
                del self._idle[key]

    def _tree(self, netns: str) -> str:
        """Return the tree of a node's own files, after creating the directories of plugins."""
        trees = FileTrees(self._directory / rundir.FILES)
        for path in (cache.DIRECTORY, os.path.dirname(XTABLES_LOCK)):
            trees.make_directory(netns, path)
        return str(trees.path(netns))


def _enter(
    title: str, node: ProcessId, hidden: Sequence[str], tree: str, programs: Sequence[str]
) -> None:
    """Move this process to the network of a node and to mounts for plugins, for good."""
    set_process_name("knl-plugins", title)
    process = Process(node)
    setns(process.pidfd, CLONE_NEWNET)
    process.close()
    mounts.network_plugins(hidden, tree, programs)
    os.chdir("/")
    confine_network_plugins()


def _answer(data: bytes, ends: Collection[int]) -> bytes:
    """Carry out a request in the namespaces of its node, and return the encoded answer.

    ends: descriptors; as soon as one of them can be read, the plugin is killed, and SystemExit is
        raised.
    """
    return msgspec.msgpack.encode(_outcome(_request_decoder.decode(data), ends))


def _outcome(request: _Request, ends: Collection[int]) -> _Answer:
    runtime = _runtime(request.plugins, ends)
    try:
        network = request.plugins.network
        match request:
            case AttachPod(sandbox=pod):
                with _held(request.pause):
                    return PodAttached(attach(runtime, network, pod, is_retry=request.is_retry))
            case DetachPod(sandbox=pod):
                with _held(request.pause):
                    runtime.delete(network, arguments_of(pod))
            case CheckPod(sandbox=pod):
                with _held(request.pause):
                    check(runtime, network, pod)
            case CollectGarbage():
                collect_garbage(runtime, network, request.valid)
            case AskStatus():
                runtime.status(network)
    except CniError as error:
        if isinstance(request, AttachPod):
            return PluginsFailed(sandbox_failure(request.sandbox.container_id, error))
        return PluginsFailed(error.explained)
    return Done()


def _held(pause: ProcessId) -> closing[Process]:
    """Keep the pid in the path of a namespace from naming another process."""
    return closing(Process(pause))


def _runtime(plugins: NodePlugins, ends: Collection[int]) -> Runtime:
    executor = PluginExecutor(plugins.directories, _ENVIRONMENT, plugins.timeout_s, ends)
    return Runtime(executor, ResultFiles(cache.DIRECTORY))
