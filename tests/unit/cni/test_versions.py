"""Versions of plugins: the command VERSION, and lists that a node cannot run."""

from __future__ import annotations

import pytest

from kubenetlab.cni.failures import Outcome, PluginError
from kubenetlab.cni.runtime import Runtime
from tests.unit.cni.fakes import Memory, Plugins, network


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
