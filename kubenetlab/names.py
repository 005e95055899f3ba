"""Names of namespaces, links and tables, as users see them in `ip`, `nft` and `ps`.

Objects that a real component creates have the name that this component gives them.
"""

import base64
import re
import zlib
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

MAX_LINK_NAME = 15
"""IFNAMSIZ without the terminating zero."""
MAX_HOSTNAME = 63
MAX_ALIAS = 254
"""Limit of link aliases: the kernel accepts IFALIASZ - 1 (255) bytes with the terminating zero."""
MAX_FILE_NAME = 255
"""NAME_MAX."""
MAX_LAB_NAME = 40
"""Limit of lab names, which are part of socket paths of at most 108 bytes."""
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""A DNS label (RFC 1123 §2.1)."""

NODE_UPLINK = "eth0"
"""Link of a node to the fabric."""
POD_LINK = "eth0"
POD_BRIDGE = "cbr0"
"""Bridge of a node's pods, as kubenet names it."""
SWITCH_BRIDGE = "br0"
"""Bridge inside a switch namespace."""
ROUTER_FABRIC_LINK = "eth0"
ROUTER_INTERNET_LINK = "eth1"
HOST_LINK = "eth0"
"""Link of an external host to the simulated internet."""
ROUTER_UPLINK = "uplink"
"""Link of the router to the machine's own network, if the lab has an uplink."""

NODES = "node/"
"""Beginning of the names of all nodes' sandboxes."""
FABRIC_SWITCH = "fabric/switch"
INTERNET_SWITCH = "fabric/internet"
ROUTER = "fabric/router"
ROUTERS = (ROUTER, "fabric/router2")
"""Sandboxes of the routers between segments; most labs have the first one only."""

KUBE_PROXY_TABLE = "kube-proxy"
MASQUERADE_TABLE = "ip-masq-agent"
NETWORK_POLICY_TABLE = "network-policy"
POLICY_LOG_GROUP = 100
"""Group of nfnetlink_log for packets that network policies drop."""
POLICY_TRACE_GROUP = 101
"""Group of nfnetlink_log for packets that match rules with the action Log."""
MAX_LOG_PREFIX = 63
"""Maximum length of the text of logged packets that every rule backend stores, in bytes."""
HOST_PORT_TABLE = "cni_hostport"
LOAD_BALANCER_TABLE = "load-balancer"
PORT_MAPPING_TABLE = "port-mappings"
UPLINK_TABLE = "uplink"


def label_problem(name: str) -> str | None:
    """Return why `name` is not a DNS label, or None if it is one."""
    if len(name) > 63:
        return f"expected at most 63 characters, found {len(name)}"
    if not LABEL.fullmatch(name):
        return (
            "expected a DNS label (RFC 1123: lower-case letters, digits and -, a letter or digit "
            f'at both ends), found "{name}"'
        )
    return None


def lab_name_fault(name: str) -> str | None:
    """Return why `name` is not a valid name of a lab, or None if it is."""
    if len(name) > MAX_LAB_NAME:
        return f"expected at most {MAX_LAB_NAME} characters, found {len(name)}"
    return label_problem(name)


def hostname(name: str) -> str:
    """Return the hostname of a machine: `name`, cut to the 63 characters of a DNS label."""
    return name[:MAX_HOSTNAME].rstrip("-.")


def node_netns(node: str) -> str:
    """Return the name of a node's sandbox."""
    return f"{NODES}{node}"


def pod_netns(namespace: str, pod: str, uid: str) -> str:
    """Return the name of a pod's sandbox; the uid makes it unique among pods of the same name."""
    return f"pod/{namespace}/{pod}/{uid[:8]}"


def segment_bridge(segment: int) -> str:
    """Return the name of a segment's bridge in the switch; 0: that of a switched fabric."""
    return SWITCH_BRIDGE if segment == 0 else f"br{segment}"


def router_link(segment: int) -> str:
    """Return the name of the router's link to a segment."""
    return ROUTER_FABRIC_LINK if segment == 0 else f"segment{segment}"


def router_port(segment: int, number: int = 1) -> str:
    """Return the name of the switch's port to a router, which no node can have."""
    if number > 1:
        return f"router{number}_{segment}"
    return "router" if segment == 0 else f"router_{segment}"


def external_netns(host: str) -> str:
    """Return the name of an external host's sandbox."""
    return f"ext/{host}"


def port_name(name: str) -> str:
    """Return the link name of a switch's port to `name`, shortened with a hash if necessary."""
    return _shortened(name, MAX_LINK_NAME)


def file_name(text: str, *, spare: int = 0) -> str:
    """Return `text` as a file name, shortened with a hash if necessary.

    spare: bytes to leave free for a suffix.
    """
    return _shortened(text, MAX_FILE_NAME - spare)


def _shortened(name: str, max_length: int) -> str:
    """Return `name`, or its beginning and a hash, in at most `max_length` characters.

    The hash has 40 bits: two of a thousand names collide once in two million labs.
    """
    if len(name) <= max_length:
        return name
    digest = base64.b32encode(_sha256(name)[:5]).decode().lower()
    return f"{name[: max_length - len(digest) - 1]}-{digest}"


def _sha256(text: str) -> bytes:
    import hashlib  # loads OpenSSL, which most commands do not need

    return hashlib.sha256(text.encode()).digest()


def link_id(uid: str) -> str:
    """Return eight hexadecimal digits that identify the link of a pod."""
    return f"{zlib.crc32(uid.encode()):08x}"


def host_link(template: str, number: int, uid: str, namespace: str, pod: str) -> str:
    """Return the name of the node's end of a pod's link.

    template: `{number}` stands for the number of the link on its node, `{id}` for digits that
        follow from the pod's UID, `{workload}` for digits that follow from its namespace and name.
    """
    if "{workload}" in template:
        return template.format(workload=workload_id(namespace, pod))
    return template.format(number=number, id=link_id(uid))


def workload_id(namespace: str, pod: str) -> str:
    """Return the eleven hexadecimal digits in Calico's name of a pod's link.

    Source: projectcalico/calico libcalico-go/lib/backend/k8s/conversion VethNameForWorkload().
    """
    import hashlib  # loads OpenSSL, which most commands do not need

    return hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()[:11]


def link_alias(component: str, subject: str) -> str:
    """Return the alias of a link, which `ip link` shows: `cni bridge: pod default/web`."""
    return f"{component}: {subject}"[:MAX_ALIAS]


def run_netns_name(lab: str, netns: str) -> str:
    """Return the name of a namespace in /run/netns: `lab_node_worker`, `lab_pod_default_web`.

    No part contains an underscore. A name too long for a file is shortened with a hash.
    """
    kind, *rest = netns.split("/")
    return file_name("_".join((lab, kind, *(rest[:2] if kind == "pod" else rest))))


@lru_cache(maxsize=8192)  # called for every neighbor of every pod
def mac_of(address: str) -> str:
    """Return the MAC of the link with this address, as CNI plugins derive it.

    It is 0a:58 and the four bytes of an IPv4 address, or 0a:5a and the last four bytes of an IPv6
    address.
    """
    return f"0a:{'5a' if ':' in address else '58'}:{_hex(address)}"


def port_mac_of(address: str) -> str:
    """Return the MAC of the bridge port behind the link with this address.

    It is the MAC of the link, plus one in the second byte.
    """
    return f"0a:{'5b' if ':' in address else '59'}:{_hex(address)}"


def mac_of_uid(uid: str) -> str:
    """Return the MAC of the link of a pod whose address does not determine it."""
    return f"0a:60:{zlib.crc32(uid.encode()).to_bytes(4).hex(':')}"


def port_mac_of_uid(uid: str) -> str:
    """Return the MAC of the bridge port behind the link with `mac_of_uid`."""
    return f"0a:61:{zlib.crc32(uid.encode()).to_bytes(4).hex(':')}"


def tunnel_mac_of(address: str) -> str:
    """Return the MAC of the tunnel's end on the node with this address.

    It is the MAC of the node's link, plus four in the second byte.
    """
    return f"0a:{'5e' if ':' in address else '5c'}:{_hex(address)}"


def link_local_of(mac: str) -> str:
    """Return the IPv6 link-local address of a MAC, by modified EUI-64 (RFC 4291, appendix A)."""
    parts = [int(part, 16) for part in mac.split(":")]
    interface = bytes((parts[0] ^ 2, parts[1], parts[2], 0xFF, 0xFE, *parts[3:]))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + interface))


def _hex(address: str) -> str:
    """Return the last four bytes of an address in hexadecimal.

    IPv4 avoids the `ipaddress` module, because it is called for thousands of addresses.
    """
    return (
        ip_address(address).packed[-4:] if ":" in address else bytes(map(int, address.split(".")))
    ).hex(":")


MACHINE_LINKS = "knl-"
"""Name prefix of the machine's ends of uplinks."""


def machine_link(lab: str) -> str:
    """Return the name of the machine's end of a lab's uplink."""
    return f"{MACHINE_LINKS}{_sha256(lab)[:4].hex()}"


def socket_address(address: str, port: int) -> str:
    """Return `10.244.1.5:40000` or `[fd00::5]:40000`, as in Go, nft and URLs (RFC 3986 §3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
