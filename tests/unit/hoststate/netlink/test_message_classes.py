"""Messages of pyroute2: the first message imports its classes, and none of the other modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kubenetlab.hoststate.netlink.message_classes import MessageClass, nest
from kubenetlab.hoststate.netlink.wire import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    as_string,
    attributes,
    message,
    messages,
    nested,
    number,
    string,
)

LINKS = MessageClass("pyroute2.netlink.rtnl.ifinfmsg", "ifinfmsg")
MODULES = [
    "pyroute2.netlink",
    "pyroute2.netlink.generic.ipvs",
    "pyroute2.netlink.nfnetlink.nfctsocket",
    "pyroute2.netlink.rtnl.ifinfmsg",
    "pyroute2.netlink.rtnl.tcmsg",
]
IMPORT = """
import sys
import kubenetlab.kernel.rules.bpf, kubenetlab.kernel.rules.conntrack, kubenetlab.kernel.rules.ipvs
import kubenetlab.kernel.uplink, kubenetlab.lab.processes.roles
from kubenetlab.hoststate.netlink.message_classes import MessageClass
assert not [name for name in sys.modules if name.startswith("pyroute2")], "imported too early"
MessageClass(sys.argv[1], "nla").load()
loaded = {name for name in sys.modules if name.startswith("pyroute2")}
assert sys.argv[1] in loaded
assert not loaded & {"pyroute2.ndb", "pyroute2.ipdb", "pyroute2.iproute", "sqlite3"}, loaded
"""


def run(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_a_class_is_imported_on_demand_and_alone(module: str) -> None:
    """The processes of a lab import none with their own modules."""
    run(IMPORT, module)


def test_the_whole_package_can_be_imported_first() -> None:
    run(
        "import pyroute2\n"
        "from kubenetlab.hoststate.netlink.message_classes import MessageClass\n"
        "MessageClass('pyroute2.netlink.rtnl.ifinfmsg', 'ifinfmsg').load()\n"
        "assert pyroute2.IPRoute"
    )


def test_the_whole_package_can_be_imported_later() -> None:
    """A test of a user may need pyroute2 in the process that has sent messages for a lab."""
    run(
        "from kubenetlab.hoststate.netlink.message_classes import MessageClass\n"
        "links = MessageClass('pyroute2.netlink.rtnl.ifinfmsg', 'ifinfmsg')\n"
        "links.load()\n"
        "from pyroute2 import IPRoute, NetNS\n"
        "import pyroute2\n"
        "assert pyroute2.IPRoute is IPRoute and not hasattr(pyroute2, 'missing')\n"
        "assert links.encode(16, 0, {'index': 7})"
    )


def test_a_request_is_encoded_with_its_attributes() -> None:
    """Fields that are not given are 0."""
    request = LINKS.encode(
        16,
        NLM_F_ACK,
        {"index": 7},
        [("IFLA_IFNAME", "dummy0"), ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", "dummy")))],
    )
    ((type_, flags, sequence, body),) = messages(request)
    assert (type_, flags, sequence) == (16, NLM_F_REQUEST | NLM_F_ACK, 0)
    assert bytes(body[:16]) == bytes(4) + (7).to_bytes(4, sys.byteorder) + bytes(8)
    attrs = attributes(body[16:])
    assert as_string(attrs[3]) == "dummy0"
    assert as_string(attributes(attrs[18])[1]) == "dummy"


def test_a_body_is_decoded_by_names() -> None:
    fields = bytes(4) + (7).to_bytes(4, sys.byteorder) + bytes(8)
    attrs = string(3, "dummy0") + number(4, 1500) + nested(18, string(1, "dummy"))
    ((_, _, _, body),) = messages(message(16, 0, fields + attrs))
    link = LINKS.decode(body)
    assert (link["index"], link.get_attr("IFLA_IFNAME")) == (7, "dummy0")
    assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "dummy"
    assert link.get_attr("IFLA_ADDRESS") is None
    assert link.get_attr("IFLA_MTU") == 1500
