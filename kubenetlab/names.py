"""Every name that the kernel, and so a user of `ip`, `nft` or `ps`, sees.

Link names have at most 15 characters (IFNAMSIZ). What a real component creates bears that component's name.
"""

import base64
import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

MAX_LINK_NAME = 15
MAX_HOSTNAME = 63
MAX_ALIAS = 254
MAX_FILE_NAME = 255
MAX_LAB_NAME = 40
"""It becomes part of a socket's path, which has 108 bytes at most."""
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""A DNS label (RFC 1123 §2.1)."""

NODE_UPLINK = "eth0"
"""A node's way onto the fabric."""
POD_LINK = "eth0"
POD_BRIDGE = "cbr0"
"""kubenet's name for the bridge of a node's pods."""
SWITCH_BRIDGE = "br0"
"""The bridge inside a switch namespace."""
ROUTER_FABRIC_LINK = "eth0"
ROUTER_INTERNET_LINK = "eth1"
HOST_LINK = "eth0"
"""An external host's way onto the internet."""
ROUTER_UPLINK = "uplink"
"""The router's way to the machine's own network, where the lab is given one."""

FABRIC_SWITCH = "fabric/switch"
INTERNET_SWITCH = "fabric/internet"
ROUTER = "fabric/router"

KUBE_PROXY_TABLE = "kube-proxy"
MASQUERADE_TABLE = "ip-masq-agent"
HOST_PORT_TABLE = "cni_hostport"
LOAD_BALANCER_TABLE = "load-balancer"
PORT_MAPPING_TABLE = "port-mappings"
UPLINK_TABLE = "uplink"


def label_fault(name: str) -> str | None:
    """Why `name` is no DNS label, or None when it is one."""
    if len(name) > 63:
        return f"wanted at most 63 characters, found {len(name)}"
    if not LABEL.fullmatch(name):
        return f'wanted a DNS label (RFC 1123: lower-case letters, digits and -, a letter or digit at both ends), found "{name}"'
    return None


def lab_name_fault(name: str) -> str | None:
    """Why a lab cannot be called `name`, or None when it can."""
    if len(name) > MAX_LAB_NAME:
        return f"wanted at most {MAX_LAB_NAME} characters, found {len(name)}"
    return label_fault(name)


def hostname(name: str) -> str:
    """What a machine called `name` can call itself: the kernel keeps 64 bytes, a DNS label has 63."""
    return name[:MAX_HOSTNAME].rstrip("-.")


def node_netns(node: str) -> str:
    """A node's sandbox."""
    return f"node/{node}"


def pod_netns(namespace: str, pod: str, uid: str) -> str:
    """A pod's sandbox; the uid tells a pod from a later one of the same name."""
    return f"pod/{namespace}/{pod}/{uid[:8]}"


def external_netns(host: str) -> str:
    """An external host's sandbox."""
    return f"ext/{host}"


def port_name(name: str) -> str:
    """The name of a switch's port to `name`: the name itself, or its beginning and a hash when it is too long."""
    return _shortened(name, MAX_LINK_NAME)


def file_name(text: str, *, spare: int = 0) -> str:
    """A name for a file: the text itself, or its beginning and a hash when no directory can hold it.

    spare: bytes that must be left for an ending.
    """
    return _shortened(text, MAX_FILE_NAME - spare)


def _shortened(name: str, most: int) -> str:
    """At most so many characters. 40 bits of hash: two of a thousand names are alike once in two million labs."""
    if len(name) <= most:
        return name
    digest = base64.b32encode(_sha256(name)[:5]).decode().lower()
    return f"{name[: most - len(digest) - 1]}-{digest}"


def _sha256(text: str) -> bytes:
    import hashlib  # it loads OpenSSL, and most commands shorten no name

    return hashlib.sha256(text.encode()).digest()


def link_alias(component: str, subject: str) -> str:
    """What `ip link` shows of a link's origin: `cni bridge: pod default/web`. The kernel keeps 255 bytes, with the final zero."""
    return f"{component}: {subject}"[:MAX_ALIAS]


def run_netns_name(lab: str, netns: str) -> str:
    """The name of a namespace in /run/netns: `lab_node_worker`, `lab_pod_default_web`; no part can hold an underscore. One that no directory holds is cut short."""
    kind, *rest = netns.split("/")
    return file_name("_".join((lab, kind, *(rest[:2] if kind == "pod" else rest))))


@lru_cache(maxsize=8192)  # every neighbour of every pod is asked for by name
def mac_of(address: str) -> str:
    """The MAC of the link with this address, as CNI plugins make it: 0a:58 and an IPv4 address's four bytes; 0a:5a and an IPv6 address's
    last four."""
    return f"0a:{'5a' if ':' in address else '58'}:{_hex(address)}"


def port_mac_of(address: str) -> str:
    """The MAC of the other end, the bridge's port, of the link with this address: one more in the second byte."""
    return f"0a:{'5b' if ':' in address else '59'}:{_hex(address)}"


def link_local_of(mac: str) -> str:
    """The IPv6 link-local address that belongs to a MAC, by the modified EUI-64 (RFC 4291, appendix A)."""
    parts = [int(part, 16) for part in mac.split(":")]
    interface = bytes((parts[0] ^ 2, parts[1], parts[2], 0xFF, 0xFE, *parts[3:]))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + interface))


def _hex(address: str) -> str:
    """The last four bytes; of IPv4, of which there are thousands, the short way."""
    return (
        ip_address(address).packed[-4:] if ":" in address else bytes(map(int, address.split(".")))
    ).hex(":")


MACHINE_LINKS = "knl-"
"""What the names of the machine's ends of uplinks begin with."""


def machine_link(lab: str) -> str:
    """The machine's end of a lab's uplink."""
    return f"{MACHINE_LINKS}{_sha256(lab)[:4].hex()}"


def socket_address(address: str, port: int) -> str:
    """`10.244.1.5:40000`, with brackets round an IPv6 address, as Go, nft and URLs have it (RFC 3986 §3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
