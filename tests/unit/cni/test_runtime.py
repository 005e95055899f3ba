"""Commands of the runtime: which plugins are called, in which order, with what."""

from __future__ import annotations

import json

import pytest

from kubenetlab.cni import cache
from kubenetlab.cni.failures import CniError
from kubenetlab.cni.invocations import Arguments
from kubenetlab.cni.runtime import Runtime
from tests.unit.cni.fakes import FIRST, POD, SECOND, Memory, Plugins, failing, network


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


@pytest.mark.parametrize(("version", "is_real"), [(4, True), (6, False)])
def test_check_of_portmap_counts_for_families_of_the_pod(version: int, is_real: bool) -> None:
    """Debian's requires chains for IPv6, also for a pod with an IPv4 address alone."""
    plugins = Plugins(bridge=FIRST, portmap=SECOND)
    runtime = Runtime(plugins, Memory())
    runtime.add(network(), POD)
    plugins.answers["portmap"] = failing(999, f"could not check ipv{version} dnat: chain not found")
    if is_real:
        with pytest.raises(CniError, match="chain not found"):
            runtime.check(network(), POD)
    else:
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
