"""Commands of the runtime: which plugins are called, in which order, with what."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from kubenetlab.cni import cache, conflist
from kubenetlab.cni.conflist import NetworkList
from kubenetlab.cni.failures import CniError, Outcome, PluginError
from kubenetlab.cni.invocations import Arguments, Attachment, Invocation
from kubenetlab.cni.runtime import Runtime

POD = Arguments(
    "abc123",
    "/proc/7/ns/net",
    "eth0",
    (("K8S_POD_NAME", "web"), ("K8S_POD_NAMESPACE", "default")),
    {"portMappings": [{"hostPort": 80}], "mac": "0a:00:00:00:00:01"},
)

FIRST = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/proc/7/ns/net", "mac": "0a:00:00:00:00:02"}],
    "ips": [{"address": "10.1.0.5/24", "interface": 0}],
}
SECOND = FIRST | {"routes": [{"dst": "0.0.0.0/0"}]}

Answer = Callable[[Invocation], Outcome]


def network(version: str = "1.0.0", **fields: Any) -> NetworkList:
    document = {
        "cniVersion": version,
        "name": "mynet",
        "plugins": [
            {"type": "bridge", "capabilities": {"mac": True}, "mtu": 1400},
            {"type": "portmap", "capabilities": {"portMappings": True, "ips": True}},
        ],
    }
    loaded, findings = conflist.load(document | fields)
    assert loaded is not None, findings
    return loaded


class Plugins:
    """Executor that answers from a table, and remembers its calls."""

    directories: Sequence[str] = ("/opt/cni/bin", "/usr/lib/cni")

    def __init__(self, **answers: object) -> None:
        """Create the executor; an answer is a document, an Outcome, or a function."""
        self.calls: list[Invocation] = []
        self.answers = answers

    @property
    def called(self) -> list[str]:
        return [f"{call.environment['CNI_COMMAND']} {call.program}" for call in self.calls]

    def stdin(self, index: int) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.calls[index].stdin)
        return document

    def find(self, program: str) -> bool:
        return program in self.answers

    def run(self, invocation: Invocation) -> Outcome:
        self.calls.append(invocation)
        answer = self.answers[invocation.program]
        if callable(answer):
            answer = answer(invocation)
        if isinstance(answer, Outcome):
            return answer
        is_add = invocation.environment["CNI_COMMAND"] == "ADD"
        return Outcome(json.dumps(answer).encode() if is_add else b"")


class Memory:
    """Store of results in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = content

    def delete(self, name: str) -> None:
        self.files.pop(name, None)

    def names(self) -> Collection[str]:
        return self.files.keys()


def failing(code: int, message: str, details: str = "", *, on: str = "") -> Answer:
    """Return a plugin that fails with an error, at one command or at all."""
    document = {"code": code, "msg": message, "details": details}

    def answer(invocation: Invocation) -> Outcome:
        if on and invocation.environment["CNI_COMMAND"] != on:
            return Outcome()
        return Outcome(json.dumps(document).encode(), exit_status=1)

    return answer


def test_add_calls_the_plugins_in_order_each_with_the_former_result() -> None:
    """Name and version are those of the list; a plugin gets the values it has asked for."""
    plugins, store = Plugins(bridge=FIRST, portmap=SECOND), Memory()
    result = Runtime(plugins, store).add(network(), POD)
    assert plugins.called == ["ADD bridge", "ADD portmap"]
    assert plugins.stdin(0) == {
        "type": "bridge",
        "capabilities": {"mac": True},
        "mtu": 1400,
        "name": "mynet",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"mac": "0a:00:00:00:00:01"},
    }
    assert plugins.stdin(1)["prevResult"] == FIRST
    assert plugins.stdin(1)["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert plugins.calls[0].environment == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc123",
        "CNI_NETNS": "/proc/7/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAME=web;K8S_POD_NAMESPACE=default",
        "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    }
    assert result.addresses_of(POD.netns, "eth0") == ("10.1.0.5",)
    assert [route.dst for route in result.routes] == ["0.0.0.0/0"]


def test_the_result_of_add_is_kept_as_libcni_keeps_it() -> None:
    """Tools that read /var/lib/cni/results find what they expect."""
    store = Memory()
    Runtime(Plugins(bridge=FIRST, portmap=SECOND), store).add(network(), POD)
    (name,) = store.files
    assert name == "mynet-abc123-eth0"
    document = json.loads(store.files[name])
    config = document.pop("config")
    assert document == {
        "kind": "cniCacheV1",
        "containerId": "abc123",
        "ifName": "eth0",
        "networkName": "mynet",
        "netns": "/proc/7/ns/net",
        "cniArgs": [["K8S_POD_NAME", "web"], ["K8S_POD_NAMESPACE", "default"]],
        "capabilityArgs": dict(POD.capabilities),
        "result": SECOND,
    }
    assert isinstance(config, str)  # base64, as Go writes bytes
    cached = cache.decode(store.files[name])
    assert cached is not None
    assert (cached.network, cached.arguments) == (network(), POD)


def test_a_plugin_gets_the_result_in_the_version_of_the_list() -> None:
    """Even if the plugin before it answers in another one."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND)
    Runtime(plugins, Memory()).add(network("0.4.0"), POD)
    previous = plugins.stdin(1)["prevResult"]
    assert previous["cniVersion"] == "0.4.0"
    assert previous["ips"] == [{"address": "10.1.0.5/24", "interface": 0, "version": "4"}]


def test_delete_is_in_reverse_with_the_result_of_add() -> None:
    """Every plugin gets the final result; afterwards nothing is kept."""
    plugins, store = Plugins(bridge=FIRST, portmap=SECOND), Memory()
    runtime = Runtime(plugins, store)
    runtime.add(network(), POD)
    plugins.calls.clear()
    runtime.delete(network(), Arguments("abc123", "", "eth0"))
    assert plugins.called == ["DEL portmap", "DEL bridge"]
    assert [plugins.stdin(index)["prevResult"] for index in (0, 1)] == [SECOND, SECOND]
    assert plugins.stdin(0)["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert plugins.calls[0].environment["CNI_NETNS"] == ""
    assert plugins.calls[0].environment["CNI_ARGS"].startswith("K8S_POD_NAME=web")
    assert store.files == {}


def test_delete_again_succeeds() -> None:
    """The plugins are called without a result: they may have something left."""
    plugins, store = Plugins(bridge=FIRST, portmap=SECOND), Memory()
    runtime = Runtime(plugins, store)
    runtime.add(network(), POD)
    runtime.delete(network(), POD)
    plugins.calls.clear()
    runtime.delete(network(), POD)
    assert plugins.called == ["DEL portmap", "DEL bridge"]
    assert "prevResult" not in plugins.stdin(0)


def test_before_version_0_4_delete_has_no_result() -> None:
    """The specification added it then."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND)
    runtime = Runtime(plugins, Memory())
    runtime.add(network("0.3.1"), POD)
    plugins.calls.clear()
    runtime.delete(network("0.3.1"), POD)
    assert "prevResult" not in plugins.stdin(0)


def test_delete_uses_the_configuration_of_add() -> None:
    """A list that has changed since then may no longer name the plugin that has work to undo."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND, ptp=FIRST)
    runtime = Runtime(plugins, Memory())
    runtime.add(network(), POD)
    plugins.calls.clear()
    runtime.delete(network(plugins=[{"type": "ptp"}]), POD)
    assert plugins.called == ["DEL portmap", "DEL bridge"]


def test_delete_goes_on_after_an_error_and_keeps_the_result() -> None:
    """So that a later DEL, or GC, can complete it."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND)
    store = Memory()
    runtime = Runtime(plugins, store)
    runtime.add(network(), POD)
    plugins.answers["portmap"] = failing(11, "xtables lock is held")
    with pytest.raises(CniError) as raised:
        runtime.delete(network(), POD)
    assert str(raised.value) == 'plugin type="portmap" failed (delete): xtables lock is held'
    assert raised.value.explanation == "the plugin asks for another try later"
    assert plugins.called[-1] == "DEL bridge"
    assert store.files
    plugins.answers["portmap"] = SECOND
    runtime.delete(network(), POD)
    assert store.files == {}


def test_an_add_that_fails_is_undone() -> None:
    """DEL of all plugins, as container runtimes do; nothing is kept; the message is libcni's."""
    plugins = Plugins(bridge=FIRST, portmap=failing(100, "no chain", "iptables: not found"))
    store = Memory()
    with pytest.raises(CniError) as raised:
        Runtime(plugins, store).add(network(), POD)
    assert str(raised.value) == (
        'plugin type="portmap" failed (add): no chain; iptables: not found'
    )
    assert raised.value.code == 100
    assert raised.value.explanation == ""
    assert plugins.called == ["ADD bridge", "ADD portmap", "DEL portmap", "DEL bridge"]
    assert store.files == {}


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome(exit_status=1), "netplugin failed with no error message: exit status 1"),
        (
            Outcome(stderr=b"panic: nil map\n", exit_status=2),
            'netplugin failed: "panic: nil map": exit status 2',
        ),
        (
            Outcome(b"Segfault", exit_status=-11),
            'netplugin failed but error parsing its diagnostic message "Segfault": '
            "Expecting value: line 1 column 1 (char 0)",
        ),
        (
            Outcome(b'{"code": "x", "msg": "m"}', exit_status=1),
            'netplugin failed but error parsing its diagnostic message "{\\"code\\": \\"x\\", '
            '\\"msg\\": \\"m\\"}": expected code, msg and details',
        ),
        (
            Outcome(b'{"code": 7, "msg": "bad subnet", "details": "10.0.0.0/33"}', exit_status=1),
            "bad subnet; 10.0.0.0/33",
        ),
        (Outcome(b"{}", exit_status=1), "it has no msg"),
        (Outcome(b"[]", exit_status=1), "expected an object"),
        (Outcome(exit_status=-9, timeout_s=30), "did not end within 30 s and was killed"),
        (Outcome(b"x", is_truncated=True), 'netplugin wrote too much and was killed: "x"'),
        (Outcome(start_error="cannot start the plugin: Permission denied"), "Permission denied"),
        (Outcome(b"hello"), 'failed to unmarshal the plugin\'s result "hello"'),
        (Outcome(), "netplugin wrote no result"),
    ],
)
def test_every_failure_has_its_words(outcome: Outcome, message: str) -> None:
    """As libcni words it where libcni has words."""
    with pytest.raises(CniError) as raised:
        Runtime(Plugins(bridge=outcome, portmap=SECOND), Memory()).add(network(), POD)
    assert str(raised.value).startswith('plugin type="bridge" failed (add): ')
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("code", "explanation"),
    [
        (1, "the plugin does not support the list's cniVersion"),
        (7, "the plugin's configuration is invalid"),
        (50, "the plugin is not available: it cannot serve new pods"),
        (99, ""),
        (100, ""),
    ],
)
def test_known_codes_are_explained(code: int, explanation: str) -> None:
    """Codes from 100 are the plugin's own."""
    with pytest.raises(CniError) as raised:
        Runtime(Plugins(bridge=failing(code, "m"), portmap=SECOND), Memory()).add(network(), POD)
    assert raised.value.explanation == explanation


def test_a_missing_program_is_named_with_the_directories() -> None:
    """As libcni words it."""
    with pytest.raises(CniError) as raised:
        Runtime(Plugins(bridge=FIRST), Memory()).add(network(), POD)
    assert str(raised.value) == (
        'plugin type="portmap" failed (add): failed to find plugin "portmap" in path'
        " [/opt/cni/bin /usr/lib/cni]"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (Arguments("", "/n", "eth0"), "missing containerID"),
        (Arguments("a/b", "/n", "eth0"), "invalid characters in containerID; a/b"),
        (Arguments("-a", "/n", "eth0"), "invalid characters in containerID"),
        (Arguments("a", "/n", ""), "invalid interface name"),
        (Arguments("a", "/n", "x" * 16), "invalid interface name"),
        (Arguments("a", "/n", ".."), "invalid interface name"),
        (Arguments("a", "/n", "e th"), "whitespace"),
    ],
)
def test_names_are_checked_before_any_call(arguments: Arguments, message: str) -> None:
    """The names become parts of paths."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND)
    with pytest.raises(CniError, match=message):
        Runtime(plugins, Memory()).add(network(), arguments)
    assert plugins.calls == []


def test_check_gets_the_result_of_add() -> None:
    """All plugins in order, with the final result."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND)
    runtime = Runtime(plugins, Memory())
    runtime.add(network(), POD)
    plugins.calls.clear()
    runtime.check(network(), POD)
    assert plugins.called == ["CHECK bridge", "CHECK portmap"]
    assert plugins.stdin(0)["prevResult"] == SECOND
    plugins.answers["bridge"] = failing(100, "eth0 is gone")
    with pytest.raises(CniError, match=r'plugin type="bridge" failed \(check\): eth0 is gone'):
        runtime.check(network(), POD)


def test_check_needs_a_version_and_may_be_disabled() -> None:
    """Lists before 0.4.0 have no CHECK; disableCheck skips it; without ADD there is nothing."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND)
    runtime = Runtime(plugins, Memory())
    with pytest.raises(CniError, match=r'"0.3.1" does not support the CHECK command'):
        runtime.check(network("0.3.1"), POD)
    runtime.check(network(disableCheck=True), POD)
    with pytest.raises(CniError, match="no cached result of ADD"):
        runtime.check(network(), POD)
    assert plugins.calls == []


def attach(runtime: Runtime, *ids: str, version: str = "1.1.0") -> None:
    for container_id in ids:
        runtime.add(network(version), Arguments(container_id, "/n", "eth0"))


def test_garbage_is_deleted_and_then_collected() -> None:
    """DEL of each attachment that is lost, then GC of every plugin with those that are valid."""
    plugins, store = Plugins(bridge=FIRST, portmap=SECOND), Memory()
    runtime = Runtime(plugins, store)
    attach(runtime, "a", "b", "c")
    store.write("damaged", b"{")
    store.write("other-x-eth0", b'{"kind": "other"}')
    plugins.calls.clear()
    runtime.collect_garbage(network("1.1.0"), [Attachment("b", "eth0")])
    assert plugins.called == [
        "DEL portmap",
        "DEL bridge",
        "DEL portmap",
        "DEL bridge",
        "GC bridge",
        "GC portmap",
    ]
    assert [call.environment["CNI_CONTAINERID"] for call in plugins.calls[:4:2]] == ["a", "c"]
    collected = plugins.stdin(4)
    valid = [{"containerID": "b", "ifname": "eth0"}]
    assert collected["cni.dev/valid-attachments"] == collected["cni.dev/attachments"] == valid
    assert (collected["name"], collected["cniVersion"]) == ("mynet", "1.1.0")
    assert plugins.calls[4].environment["CNI_CONTAINERID"] == ""
    assert "mynet-b-eth0" in store.files
    assert "mynet-a-eth0" not in store.files


def test_garbage_collection_goes_on_after_errors() -> None:
    """All failures are reported together."""
    plugins, store = Plugins(bridge=FIRST, portmap=SECOND), Memory()
    runtime = Runtime(plugins, store)
    attach(runtime, "a")
    plugins.answers |= {"bridge": failing(999, "broken"), "portmap": failing(5, "disk full")}
    with pytest.raises(CniError) as raised:
        runtime.collect_garbage(network("1.1.0"), [])
    assert str(raised.value).splitlines() == [
        'failed to delete stale attachment a eth0: plugin type="portmap" failed (delete):'
        " disk full",
        'plugin type="bridge" failed (delete): broken',
        'plugin type="bridge" failed (gc): broken',
        'plugin type="portmap" failed (gc): disk full',
    ]


def test_garbage_collection_before_1_1_is_delete_only() -> None:
    """And disableGC switches all of it off."""
    plugins, store = Plugins(bridge=FIRST, portmap=SECOND), Memory()
    runtime = Runtime(plugins, store)
    attach(runtime, "a", version="1.0.0")
    plugins.calls.clear()
    runtime.collect_garbage(network("1.0.0", disableGC=True), [])
    assert plugins.calls == []
    runtime.collect_garbage(network("1.0.0"), [])
    assert plugins.called == ["DEL portmap", "DEL bridge"]


def test_status_is_the_first_error() -> None:
    """From 1.1.0; older lists have no such command."""
    plugins = Plugins(bridge=failing(50, "no daemon", on="STATUS"), portmap=SECOND)
    runtime = Runtime(plugins, Memory())
    runtime.status(network("1.0.0"))
    assert plugins.calls == []
    with pytest.raises(CniError) as raised:
        runtime.status(network("1.1.0"))
    assert str(raised.value) == 'plugin type="bridge" failed (status): no daemon'
    assert raised.value.code == 50
    assert plugins.called == ["STATUS bridge"]
    plugins.answers["bridge"] = FIRST
    runtime.status(network("1.1.0"))
    assert plugins.called[1:] == ["STATUS bridge", "STATUS portmap"]
    assert "runtimeConfig" not in plugins.stdin(1)


def versions_of(output: bytes, status: int = 0) -> tuple[str, ...]:
    return Runtime(Plugins(x=Outcome(output, exit_status=status)), Memory()).versions("x")


def test_version_asks_with_values_that_old_plugins_require() -> None:
    """The answer lists the supported versions; very old plugins know no such command."""
    answer = Outcome(b'{"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "1.0.0"]}')
    plugins = Plugins(x=answer)
    assert Runtime(plugins, Memory()).versions("x") == ("0.3.1", "1.0.0")
    assert plugins.stdin(0) == {"cniVersion": "1.1.0"}
    environment = plugins.calls[0].environment
    assert [environment[f"CNI_{name}"] for name in ("COMMAND", "NETNS", "IFNAME", "PATH")] == [
        "VERSION",
        "dummy",
        "dummy",
        "dummy",
    ]
    assert versions_of(b'{"cniVersion": "0.2.0"}') == ("0.1.0", "0.2.0")
    assert versions_of(b'{"code": 4, "msg": "unknown CNI_COMMAND: VERSION"}', 1) == ("0.1.0",)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (b"", "decoding version info: Expecting value"),
        (b"{}", "missing field cniVersion"),
        (b'{"cniVersion": "1.0.0"}', "missing field supportedVersions"),
        (b'{"cniVersion": "1.0.0", "supportedVersions": "1.0.0"}', "missing field supported"),
    ],
)
def test_version_information_may_be_rubbish(output: bytes, message: str) -> None:
    """As libcni words it."""
    with pytest.raises(PluginError, match=message):
        versions_of(output)


def test_a_list_is_validated_on_a_node() -> None:
    """Missing programs, IPAM plugins among them, and versions that a plugin does not support."""
    plugins = Plugins(
        bridge=Outcome(b'{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}'),
        portmap=Outcome(b"oops", exit_status=3),
    )
    entries = [{"type": "bridge", "ipam": {"type": "dhcp"}}, {"type": "portmap"}]
    problems = list(Runtime(plugins, Memory()).validate(network("1.1.0", plugins=entries)))
    assert problems == [
        'plugin bridge does not support config version "1.1.0" (it supports 0.4.0, 1.0.0)',
        "plugin portmap does not answer VERSION: netplugin failed but error parsing its"
        ' diagnostic message "oops": Expecting value: line 1 column 1 (char 0)',
        'failed to find plugin "dhcp" in path [/opt/cni/bin /usr/lib/cni]',
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"kind": "cniCacheV2"}',
        b'{"kind": "cniCacheV1"}',
        b'{"kind": "cniCacheV1", "containerId": "a", "ifName": "e", "config": "!"}',
        b'{"kind": "cniCacheV1", "containerId": "a", "ifName": "e", "config": "e30="}',
    ],
)
def test_a_damaged_file_is_ignored(content: bytes) -> None:
    """DEL goes on without a result, then."""
    assert cache.decode(content) is None
    plugins, store = Plugins(bridge=FIRST, portmap=SECOND), Memory()
    store.write("mynet-abc123-eth0", content)
    Runtime(plugins, store).delete(network(), POD)
    assert plugins.called == ["DEL portmap", "DEL bridge"]
    assert store.files == {}
