"""Families of generic netlink, whose numbers the kernel gives at run time.

Source: include/uapi/linux/genetlink.h, net/netlink/genetlink.c (6.12).
"""

from __future__ import annotations

from kubenetlab.hoststate.netlink.message_classes import MessageClass

_CONTROL = MessageClass("pyroute2.netlink", "ctrlmsg")
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _VERSION = 16, 3, 1


def family_request(name: str, flags: int = 0) -> bytes:
    """Return the request for a family's number, which loads the kernel module."""
    fields = {"cmd": _CTRL_CMD_GETFAMILY, "version": _VERSION}
    return _CONTROL.encode(_GENL_ID_CTRL, flags, fields, [("CTRL_ATTR_FAMILY_NAME", name)])


def family_number(body: memoryview) -> int:
    """Decode the reply to `family_request`."""
    number: int = _CONTROL.decode(body).get_attr("CTRL_ATTR_FAMILY_ID")
    return number
