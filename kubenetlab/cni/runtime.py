"""Commands of the runtime for a network list: sequences of calls of its plugins.

Deviations from libcni:

- An ADD that fails is followed by a DEL here; libcni leaves that to its caller.
- DEL continues after a plugin's error, and uses the configuration with which ADD was called, as
  CRI-O does.
- Garbage collection passes no path of a namespace: the path may name another one by now.
- Each plugin gets `prevResult` in the version of the list, whatever version the plugin before it
  has answered in.

Source: containernetworking/cni libcni/api.go, SPEC.md section 3.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from msgspec import Struct, structs

from kubenetlab.cni import cache, conflist, invocations, results
from kubenetlab.cni.cache import CachedAttachment
from kubenetlab.cni.conflist import NetworkList, Plugin
from kubenetlab.cni.failures import CniError, Outcome, PluginError, output_of
from kubenetlab.cni.false_failures import is_false_failure
from kubenetlab.cni.invocations import Arguments, Attachment, Invocation
from kubenetlab.cni.results import Result

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_MAX_IFNAME = 15


class Executor(Protocol):
    """Runs programs of plugins."""

    @property
    def directories(self) -> Sequence[str]:
        """Directories in which programs are searched, in this order."""

    def find(self, program: str) -> bool:
        """Return True if a directory has the program."""

    def run(self, invocation: Invocation) -> Outcome:
        """Run a program to its end."""


class ResultStore(Protocol):
    """Files with results of ADD, by name."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is no such file."""

    def write(self, name: str, content: bytes) -> None: ...

    def delete(self, name: str) -> None:
        """Delete a file; do nothing if there is no such file."""

    def names(self) -> Collection[str]: ...


class Runtime(Struct, frozen=True):
    """Runtime of one node."""

    executor: Executor
    store: ResultStore

    def add(self, network: NetworkList, arguments: Arguments) -> Result:
        """Attach a pod: each plugin gets the result of the one before it.

        Raises CniError when a plugin fails; the plugins have undone their work then, as far as
        they can.
        """
        _check_names(arguments)
        result: Result | None = None
        try:
            for plugin in network.plugins:
                try:
                    result = self._add_one(network, plugin, arguments, result)
                except PluginError as error:
                    raise _failure(plugin, "add", error) from error
        except CniError:
            try:
                self.delete(network, arguments)
            except CniError:
                pass  # the cause is the error of ADD, and a later GC tries again
            raise
        assert result is not None  # a list has plugins
        content = cache.encode(network, arguments, result)
        self.store.write(cache.file_name(network.name, arguments), content)
        return result

    def result_of(self, network: NetworkList, arguments: Arguments) -> Result | None:
        """Return the kept result of an earlier ADD; None if there is none."""
        cached = self._cached(cache.file_name(network.name, arguments))
        return cached.result if cached is not None else None

    def delete(self, network: NetworkList, arguments: Arguments) -> None:
        """Detach a pod, in reverse order. Succeeds if it is not attached.

        Each plugin gets the result of ADD if there is one. Raises CniError with all failures; the
        result is kept then for another try.
        """
        name = cache.file_name(network.name, arguments)
        cached = self._cached(name)
        result: Result | None = None
        if cached is not None:
            network = cached.network
            arguments = structs.replace(cached.arguments, netns=arguments.netns)
            # The result was added to the arguments of DEL in version 0.4.0.
            result = cached.result if conflist.is_at_least(network.version, "0.4.0") else None
        failures: list[CniError] = []
        for plugin in reversed(network.plugins):
            try:
                self._call("DEL", network, plugin, arguments, result)
            except PluginError as error:
                failures.append(_failure(plugin, "delete", error))
        if failures:
            raise _joined(failures)
        self.store.delete(name)

    def check(self, network: NetworkList, arguments: Arguments) -> None:
        """Ask each plugin whether a pod's attachment is as ADD left it.

        Raises CniError when one of them finds a difference, and for lists before 0.4.0.
        """
        if not conflist.is_at_least(network.version, "0.4.0"):
            version = network.version
            raise CniError(f'configuration version "{version}" does not support the CHECK command')
        if network.disable_check:
            return
        cached = self._cached(cache.file_name(network.name, arguments))
        if cached is None or cached.result is None:
            raise CniError(f'network "{network.name}" has no cached result of ADD')
        for plugin in network.plugins:
            try:
                self._call("CHECK", network, plugin, cached.arguments, cached.result)
            except PluginError as error:
                if not is_false_failure(plugin.type, error, cached.result):
                    raise _failure(plugin, "check", error) from error

    def collect_garbage(self, network: NetworkList, valid: Sequence[Attachment]) -> None:
        """Detach every pod of the network that is not valid any more.

        First DEL for each result that is kept, then GC for lists from 1.1.0, so that plugins can
        release what no result mentions. Raises CniError with all failures.
        """
        if network.disable_gc:
            return
        failures: list[CniError] = []
        for cached in list(self.attachments(network.name)):
            own = Attachment(cached.arguments.container_id, cached.arguments.ifname)
            if own in valid:
                continue
            try:
                # The path may name the namespace of another pod by now.
                self.delete(cached.network, structs.replace(cached.arguments, netns=""))
            except CniError as error:
                text = f"failed to delete stale attachment {own.container_id} {own.ifname}: {error}"
                failures.append(CniError(text, error.code))
        if conflist.is_at_least(network.version, "1.1.0"):
            for plugin in network.plugins:
                try:
                    self._output(
                        invocations.of_network(
                            "GC", network, plugin, self.executor.directories, valid
                        )
                    )
                except PluginError as error:
                    failures.append(_failure(plugin, "gc", error))
        if failures:
            raise _joined(failures)

    def status(self, network: NetworkList) -> None:
        """Ask the plugins of a list from 1.1.0 whether they can attach pods.

        Raises CniError with the first plugin's error.
        """
        if not conflist.is_at_least(network.version, "1.1.0"):
            return
        for plugin in network.plugins:
            try:
                self._output(
                    invocations.of_network("STATUS", network, plugin, self.executor.directories)
                )
            except PluginError as error:
                raise _failure(plugin, "status", error) from error

    def versions(self, program: str) -> tuple[str, ...]:
        """Return the versions that a plugin supports. Raises PluginError if it does not say."""
        try:
            output = self._output(invocations.of_version(program))
        except PluginError as error:
            if error.message == "unknown CNI_COMMAND: VERSION":
                return ("0.1.0",)
            raise
        try:
            document = json.loads(output)
        except (ValueError, RecursionError) as error:
            raise PluginError(f"decoding version info: {error}") from None
        if not isinstance(document, dict) or not document.get("cniVersion"):
            raise PluginError("decoding version info: missing field cniVersion")
        supported = document.get("supportedVersions")
        if not supported and document["cniVersion"] == "0.2.0":
            return ("0.1.0", "0.2.0")
        if not isinstance(supported, list) or not supported:
            raise PluginError("decoding version info: missing field supportedVersions")
        return tuple(str(version) for version in supported)

    def validate(self, network: NetworkList) -> Iterator[str]:
        """Yield the reasons why a list cannot work on this node: missing programs, versions."""
        for program in network.program_names:
            if not self.executor.find(program):
                yield _not_found(program, self.executor.directories)
                continue
            try:
                supported = self.versions(program)
            except PluginError as error:
                yield f"plugin {program} does not answer VERSION: {error}"
                continue
            if network.version not in supported:
                yield (
                    f'plugin {program} does not support config version "{network.version}"'
                    f" (it supports {', '.join(supported)})"
                )

    def attachments(self, network: str) -> Iterator[CachedAttachment]:
        """Yield the attachments to a network whose results are kept."""
        for name in sorted(self.store.names()):
            cached = self._cached(name)
            if cached is not None and cached.network.name == network:
                yield cached

    def _add_one(
        self, network: NetworkList, plugin: Plugin, arguments: Arguments, previous: Result | None
    ) -> Result:
        output = self._call("ADD", network, plugin, arguments, previous)
        return results.decode(output, network.version)

    def _call(
        self,
        command: invocations.PodCommand,
        network: NetworkList,
        plugin: Plugin,
        arguments: Arguments,
        previous: Result | None,
    ) -> bytes:
        try:
            invocation = invocations.of_pod(
                command, network, plugin, arguments, self.executor.directories, previous
            )
        except ValueError as error:
            raise PluginError(str(error)) from error
        return self._output(invocation)

    def _output(self, invocation: Invocation) -> bytes:
        if not self.executor.find(invocation.program):
            raise PluginError(_not_found(invocation.program, self.executor.directories))
        return output_of(self.executor.run(invocation))

    def _cached(self, name: str) -> CachedAttachment | None:
        content = self.store.read(name)
        return None if content is None else cache.decode(content)


def _check_names(arguments: Arguments) -> None:
    """Raise CniError for names that the specification does not allow."""
    container_id, ifname = arguments.container_id, arguments.ifname
    if not container_id:
        raise CniError("missing containerID", 3)
    if not container_id[0].isalnum() or not _ID_CHARACTERS.issuperset(container_id):
        raise CniError(f"invalid characters in containerID; {container_id}", 4)
    if not ifname or len(ifname) > _MAX_IFNAME or ifname in (".", ".."):
        raise CniError(f'invalid interface name "{ifname}"', 4)
    if any(char in "/:" or char.isspace() for char in ifname):
        raise CniError("interface name contains / or : or whitespace characters", 4)


def _not_found(program: str, directories: Sequence[str]) -> str:
    return f'failed to find plugin "{program}" in path [{" ".join(directories)}]'


def _failure(plugin: Plugin, action: str, error: PluginError) -> CniError:
    """Return the error of a command, as libcni words it."""
    return CniError(f"plugin {plugin.description} failed ({action}): {error}", error.code)


def _joined(failures: Sequence[CniError]) -> CniError:
    return CniError("\n".join(str(failure) for failure in failures), failures[0].code)
