"""Commands that are about no pod: GC and STATUS."""

from __future__ import annotations

import pytest

from kubenetlab.cni.failures import CniError
from kubenetlab.cni.invocations import Arguments, Attachment
from kubenetlab.cni.runtime import Runtime
from tests.unit.cni.fakes import FIRST, SECOND, Memory, Plugins, failing, network


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
