"""Messages about plugins that fail."""

from __future__ import annotations

import pytest

from kubenetlab.cni.failures import CniError, Outcome
from kubenetlab.cni.invocations import Arguments
from kubenetlab.cni.runtime import Runtime
from tests.unit.cni.fakes import FIRST, POD, SECOND, Memory, Plugins, failing, network


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
