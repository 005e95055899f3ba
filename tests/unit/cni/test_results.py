"""Results of plugins in all versions of the specification."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.cni import results
from kubenetlab.cni.failures import PluginError
from kubenetlab.cni.results import Dns, Interface, IpConfig, Result, Route

NETNS = "/run/netns/pod"

FULL = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "cni0", "mac": "0a:00:00:00:00:01", "mtu": 1400},
        {"name": "veth1", "mac": "0a:00:00:00:00:02", "mtu": 1400},
        {"name": "eth0", "mac": "0a:00:00:00:00:03", "sandbox": NETNS, "mtu": 1400},
    ],
    "ips": [
        {"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 2},
        {"address": "fd00::5/64", "interface": 2},
        {"address": "10.9.0.5/24", "interface": 1},
    ],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.2.0.0/16", "gw": "10.1.0.1", "table": 0}],
    "dns": {"nameservers": ["10.1.0.1"]},
}


def decoded(document: dict[str, Any], config_version: str = "1.0.0") -> Result:
    return results.decode(json.dumps(document).encode(), config_version)


def test_the_pods_addresses_are_those_of_its_interface() -> None:
    """Addresses of the node's interfaces are not the pod's; the node's ends have no sandbox."""
    result = decoded(FULL)
    assert result.addresses_of(NETNS, "eth0") == ("10.1.0.5", "fd00::5")
    assert result.addresses_of(NETNS, "net1") == ()
    assert result.host_interfaces() == ("cni0", "veth1")


def test_an_address_without_interface_is_the_pods() -> None:
    """So IPAM plugins answer, and some plugins of old versions."""
    result = decoded({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.0.5/24"}]})
    assert result.addresses_of(NETNS, "eth0") == ("10.1.0.5",)


def test_an_interface_index_out_of_range_is_no_interface() -> None:
    """A wrong result must not end in an IndexError."""
    result = decoded({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24", "interface": 7}]})
    assert result.addresses_of(NETNS, "eth0") == ()


def test_a_result_keeps_all_fields_in_its_own_version() -> None:
    """The next plugin reads the document that the former plugin wrote."""
    assert results.to_document(decoded(FULL), "1.1.0") == FULL


def test_before_version_1_addresses_have_a_version() -> None:
    """And interfaces have neither MTU nor PCI id."""
    document = results.to_document(decoded(FULL), "0.4.0")
    assert document["cniVersion"] == "0.4.0"
    assert [ip["version"] for ip in document["ips"]] == ["4", "6", "4"]
    assert document["interfaces"][2] == {
        "name": "eth0",
        "mac": "0a:00:00:00:00:03",
        "sandbox": NETNS,
    }
    assert results.to_document(decoded(document), "1.0.0")["ips"] == FULL["ips"]


def test_the_oldest_versions_have_one_address_per_family() -> None:
    """Routes belong to the address of their family."""
    document = results.to_document(decoded(FULL), "0.2.0")
    assert document == {
        "cniVersion": "0.2.0",
        "ip4": {
            "ip": "10.1.0.5/24",
            "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.2.0.0/16", "gw": "10.1.0.1"}],
        },
        "ip6": {"ip": "fd00::5/64"},
        "dns": {"nameservers": ["10.1.0.1"]},
    }
    again = decoded(document)
    assert again.cni_version == "0.2.0"
    assert again.addresses_of(NETNS, "eth0") == ("10.1.0.5", "fd00::5")
    assert [route.dst for route in again.routes] == ["0.0.0.0/0", "10.2.0.0/16"]


def test_a_result_without_addresses_cannot_become_an_old_one() -> None:
    """0.2.0 requires an address."""
    with pytest.raises(ValueError, match="no valid IP addresses"):
        results.to_document(Result("1.0.0"), "0.2.0")


def test_a_result_without_version_has_that_of_the_configuration() -> None:
    """Libcni assumes so."""
    assert decoded({"ips": []}, "0.4.0").cni_version == "0.4.0"
    assert results.decode(b"null", "1.0.0") == Result("1.0.0")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (b"", "netplugin wrote no result"),
        (b"hello\n", 'failed to unmarshal the plugin\'s result "hello": Expecting value'),
        (b"[]", "expected an object"),
        (b'{"cniVersion": "9.0.0"}', 'unsupported CNI result version "9.0.0"'),
        (b'{"ips": [{"address": "10.1.0.5"}]}', "invalid CIDR address: 10.1.0.5"),
        (b'{"ips": [{"address": "x/24"}]}', "x/24"),
        (b'{"ips": 5}', "Expected `array`"),
        (b'{"routes": [{"dst": "everywhere"}]}', "everywhere"),
        (b'{"cniVersion": "0.2.0", "ip4": {}}', "ip4 has no ip"),
        (b"\xff\xfe", "failed to unmarshal"),
        pytest.param(b"[" * 100_000, "failed to unmarshal", id="deep"),
    ],
)
def test_rubbish_is_refused_and_shown(output: bytes, message: str) -> None:
    """A plugin that succeeds without a result has failed."""
    with pytest.raises(PluginError) as raised:
        results.decode(output, "1.0.0")
    assert message in str(raised.value)
    assert len(str(raised.value)) < 2000


ADDRESSES = st.sampled_from(["10.1.0.5/24", "10.1.0.6/32", "fd00::5/64", "2001:db8::1/128"])
RESULTS = st.builds(
    Result,
    st.just("1.1.0"),
    st.lists(
        st.builds(Interface, st.sampled_from(["eth0", "cni0"]), sandbox=st.sampled_from(["", "/n"]))
    ).map(tuple),
    st.lists(
        st.builds(
            IpConfig, ADDRESSES, st.sampled_from(["", "10.1.0.1"]), st.none() | st.integers(0, 2)
        )
    ).map(tuple),
    st.lists(
        st.builds(
            Route,
            st.sampled_from(["0.0.0.0/0", "::/0"]),
            mtu=st.integers(0, 9000),
            table=st.integers(0, 300),
        )
    ).map(tuple),
    st.builds(Dns, st.lists(st.just("10.0.0.10")).map(tuple), st.sampled_from(["", "a.example"])),
)


@given(RESULTS, st.sampled_from(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]))
def test_conversion_keeps_what_both_versions_have(result: Result, version: str) -> None:
    """A result that is converted, and decoded again, is the same but for its version."""
    document = json.loads(json.dumps(results.to_document(result, version)))
    again = results.from_document(document, version)
    assert again.cni_version == version
    assert (again.interfaces, again.ips, again.routes, again.dns) == (
        result.interfaces,
        result.ips,
        result.routes,
        result.dns,
    )
