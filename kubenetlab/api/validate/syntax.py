"""Syntax of names, keys, addresses and ranges.

Source: RFC 1035 §2.3.1, RFC 1123 §2.1; k8s.io/apimachinery pkg/util/validation/validation.go.
"""

import re

from kubenetlab.api.text.decode import found
from kubenetlab.api.values import ip
from kubenetlab.names import LABEL, label_problem

_SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
QUALIFIED_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
"""Value of a label, and part of a key after its prefix."""
_PORT_NAME = re.compile(r"(?=[a-z0-9-]*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def subdomain_fault(name: str) -> str | None:
    """Return the reason why `name` is not a DNS subdomain; None if it is one."""
    if len(name) > 253:
        return f"expected at most 253 characters, found {len(name)}"
    if not _SUBDOMAIN.fullmatch(name):
        return (
            "expected a DNS subdomain (RFC 1123: lower-case letters, digits, - and ., "
            f"a letter or digit at both ends), found {found(name)}"
        )
    return None


def service_name_fault(name: str) -> str | None:
    """Return the reason why `name` is not a Service name; None if it is one.

    A Service name is a DNS label (RFC 1035), which does not begin with a digit.
    """
    if fault := label_problem(name):
        return fault
    if name[0].isdigit():
        return f"expected a DNS label that begins with a letter (RFC 1035), found {found(name)}"
    return None


def port_name_fault(name: str) -> str | None:
    """Return the reason why `name` is not a port name; None if it is one.

    A port name is an IANA service name (RFC 6335 §5.1).
    """
    if len(name) > 15:
        return f"expected at most 15 characters, found {len(name)}"
    if not _PORT_NAME.fullmatch(name):
        return (
            "expected lower-case letters, digits and single -, at least one letter, "
            f"found {found(name)}"
        )
    return None


def address_fault(text: str) -> str | None:
    """Return the reason why `text` is not an IP address; None if it is one."""
    return None if ip.is_address(text) else f"expected an IP address, found {found(text)}"


def not_a_range(text: str, example: str = "192.168.1.0/24") -> str:
    """Return the message that `text` is not a range of addresses."""
    return f"expected a range such as {example}, found {found(text)}"


def key_fault(key: str) -> str | None:
    """Return the reason why `key` is not a key of a label, annotation or taint; None if it is."""
    prefix, slash, name = key.rpartition("/")
    if slash and (subdomain_fault(prefix) is not None):
        return f"the part before / must be a DNS subdomain, found {found(prefix)}"
    if not name or len(name) > 63 or not QUALIFIED_NAME.fullmatch(name):
        return f"expected a name of at most 63 letters, digits, -, _ and ., found {found(name)}"
    return None
