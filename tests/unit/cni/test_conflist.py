"""Network configuration lists: what is accepted, and every mistake with its path."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.text.decode import format_path
from kubenetlab.cni import conflist


def document(**fields: Any) -> dict[str, Any]:
    """Return a valid list with some fields replaced; None removes a field."""
    valid = {
        "cniVersion": "1.0.0",
        "name": "mynet",
        "plugins": [
            {
                "type": "bridge",
                "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"},
                "capabilities": {"mac": True, "ips": False},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    return {key: value for key, value in (valid | fields).items() if value is not None}


def test_a_list_has_its_plugins_in_order() -> None:
    """Capabilities that are switched off are not listed, IPAM plugins are programs, too."""
    network, findings = conflist.load(document())
    assert network is not None
    assert findings == ()
    assert (network.name, network.version) == ("mynet", "1.0.0")
    assert [plugin.type for plugin in network.plugins] == ["bridge", "portmap"]
    assert network.plugins[0].capabilities == ("mac",)
    assert network.capabilities == ("mac", "portMappings")
    assert network.program_names == ("bridge", "portmap", "host-local")


def test_a_single_plugin_is_a_list_of_one() -> None:
    """Files that end in .conf have `type` in place of `plugins`."""
    network, _ = conflist.load({"cniVersion": "0.3.1", "name": "n", "type": "ptp", "mtu": 1400})
    assert network is not None
    assert (network.name, network.version, network.program_names) == ("n", "0.3.1", ("ptp",))
    assert network.plugins[0].config["mtu"] == 1400


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersions": ["0.4.0", "1.1.0", "0.3.1"]}, "1.1.0"),
        ({"cniVersion": None, "cniVersions": ["1.0.0"]}, "1.0.0"),
        ({"cniVersion": "1.1.0", "cniVersions": ["0.4.0"]}, "1.1.0"),
        ({"cniVersions": ["0.4.0", "7.0.0"]}, "1.0.0"),
    ],
)
def test_the_highest_version_that_the_runtime_implements_is_used(
    fields: dict[str, Any], chosen: str
) -> None:
    """Later versions than the runtime's are for other runtimes."""
    network, _ = conflist.load(document(**fields))
    assert network is not None
    assert network.version == chosen


@pytest.mark.parametrize("value", [True, "true", "True"])
def test_flags_may_be_text(value: object) -> None:
    """Libcni reads both; `loadOnlyInlinedPlugins` is accepted and has no effect."""
    fields = dict.fromkeys(("disableCheck", "disableGC", "loadOnlyInlinedPlugins"), value)
    network, findings = conflist.load(document(**fields))
    assert network is not None
    assert (network.disable_check, network.disable_gc, findings) == (True, True, ())


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"name": None}, "", "the list has no `name`: expected the name of the network"),
        (
            {"name": "-x/"},
            "name",
            'expected letters, digits, `_`, `.` and `-`, the first a letter or digit; found "-x/"',
        ),
        ({"cniVersion": None}, "", "the list has no `cniVersion`: expected a version from 0.3.0"),
        ({"cniVersion": "2.0.0"}, "cniVersion", "to 1.1.0, found 2.0.0"),
        ({"cniVersion": "0.2.0"}, "cniVersion", "expected a version from 0.3.0 to 1.1.0"),
        ({"cniVersion": "1.x"}, "cniVersion", 'found "1.x"'),
        ({"cniVersion": 1}, "cniVersion", "found 1"),
        ({"cniVersions": "1.0.0"}, "cniVersions", "expected a list of versions"),
        ({"cniVersions": [1]}, "cniVersions[0]", "found 1"),
        ({"disableCheck": "yes"}, "disableCheck", 'expected true or false, found "yes"'),
        ({"plugins": None}, "", "the list has no `plugins`: expected at least one plugin"),
        ({"plugins": []}, "plugins", "expected a list of plugins, found an empty list"),
        ({"plugins": ["bridge"]}, "plugins[0]", "expected a plugin's configuration"),
        ({"plugins": [{}]}, "plugins[0].type", "expected the name of a plugin, found nothing"),
        ({"plugins": [{"type": "../sh"}]}, "plugins[0].type", "without `/`"),
        (
            {"plugins": [{"type": "a", "ipam": {"type": "/x"}}]},
            "plugins[0].ipam.type",
            "without `/`",
        ),
        ({"plugins": [{"type": "a", "ipam": "x"}]}, "plugins[0].ipam", "expected a mapping"),
        (
            {"plugins": [{"type": "a", "capabilities": {"ips": "on"}}]},
            "plugins[0].capabilities.ips",
            'expected true or false, found "on"',
        ),
        (
            {"plugins": [{"type": "a", "capabilities": ["ips"]}]},
            "plugins[0].capabilities",
            "expected a mapping, found a list",
        ),
    ],
)
def test_mistakes_have_their_path(fields: dict[str, Any], path: str, message: str) -> None:
    """A list with a mistake is no list."""
    network, findings = conflist.load(document(**fields))
    assert network is None
    assert [format_path(finding.path) for finding in findings] == [path]
    assert message in findings[0].message


def test_all_mistakes_are_reported_together() -> None:
    """A user mends them at once."""
    _, findings = conflist.load({"plugins": [{}], "disableGC": 1})
    assert len(findings) == 4


def test_an_unknown_field_is_a_warning() -> None:
    """Plugins have fields of their own, the list has not; libcni ignores it."""
    network, findings = conflist.load(document(disablecheck=True))
    assert network is not None
    assert not network.disable_check
    assert [finding.is_warning for finding in findings] == [True]
    assert "did you mean disableCheck?" in findings[0].message


@pytest.mark.parametrize("value", [None, "text", [], 1])
def test_other_json_is_no_list(value: object) -> None:
    """The whole document has another type."""
    network, findings = conflist.load(value)
    assert network is None
    assert "expected a CNI configuration list" in findings[0].message


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("0.4.0", "0.4.0", True),
        ("0.3.1", "0.4.0", False),
        ("1.1.0", "0.4.0", True),
        ("0.10.0", "0.4.0", True),
        ("1", "1.0.0", True),
        ("x", "1.0.0", False),
    ],
)
def test_versions_are_compared_as_numbers(version: str, minimum: str, expected: bool) -> None:
    """0.10 is later than 0.4."""
    assert conflist.is_at_least(version, minimum) is expected
