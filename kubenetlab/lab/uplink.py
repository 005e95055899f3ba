"""Uplink of a lab: a veth link from the machine to the lab's router, and NAT rules on the machine.

Commands create and remove it, because the lab's own processes cannot reach the machine's network
namespace. The kernel removes the link together with the lab. The machine's rules, and forwarding
that was enabled on its links, are recorded in the run directory before they are set up: the next
command that finds the lab dead undoes them. Forwarding is shared by all labs with uplinks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec
from msgspec import Struct

from kubenetlab import names
from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.lab import Uplink
from kubenetlab.datapath.network import uplink as desired
from kubenetlab.datapath.network.port_mappings import PublishedPort, published_ports
from kubenetlab.errors import KubenetlabError, LabError, os_error_text
from kubenetlab.kernel import uplink as machine
from kubenetlab.kernel.files import replace_file
from kubenetlab.lab import rundir
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


class UplinkRecord(Struct, frozen=True):
    """Parts of an uplink on the machine, as recorded in the run directory."""

    link: str
    """Name of the machine's end of the link."""
    machine: tuple[str, ...]
    """Addresses of the machine's end, at most one per family, without prefix length."""
    router: tuple[str, ...]
    """Addresses of the router's end."""
    tables: tuple[tuple[str, str], ...]
    """Family and name of each nftables table."""


def create(client: Client, config: ClusterConfig) -> UplinkRecord:
    """Create the uplink of a lab, or repair the existing one.

    Raises LabError or another KubenetlabError; the uplink has been removed then.
    """
    with _locked(client.lab):
        return _bring(client, config)


def _bring(client: Client, config: ClusterConfig) -> UplinkRecord:
    lab = client.lab
    path = _record_path(lab)
    inspection = client.inspect()
    link, before = names.machine_link(lab), _read(path)
    try:
        record = (
            before if before is not None and machine.has_link(link) else _planned(lab, link, config)
        )
        published = published_ports(
            config, {node["name"]: node["addresses"] for node in inspection["nodes"]}
        )
        if before is None:
            _require_free(published)
        objects = tuple(
            desired.machine(
                lab, Uplink(machine=record.machine, router=record.router), published, config
            )
        )
        replace_file(path, msgspec.json.encode(record))
        _enable_forwarding(lab)
        addresses = [
            f"{address}/{desired.PREFIX_LENGTHS[6 if ':' in address else 4]}"
            for address in record.machine
        ]
        if not machine.is_connected(link, addresses):
            machine.disconnect(link)
            machine.connect(
                link,
                names.ROUTER_UPLINK,
                f"{rundir.RUN_NETNS}/{names.run_netns_name(lab, names.ROUTER)}",
                addresses,
            )
        machine.load(objects, record.tables)
        client.post(f"{LAB_API}/uplink", {"machine": record.machine, "router": record.router})
    except (OSError, KubenetlabError) as error:
        with suppress(OSError, KubenetlabError):  # the lab itself may have failed
            _report_removal(client)
        remove_from_machine(lab)
        if isinstance(error, OSError):
            raise LabError(f"lab {lab} has no uplink: {os_error_text(error)}") from error
        raise
    return record


def remove(client: Client) -> bool:
    """Remove the uplink of a running lab; return False if there is none."""
    with _locked(client.lab):
        if not _record_path(client.lab).exists():
            return False
        _report_removal(client)
        remove_from_machine(client.lab)
        return True


def _report_removal(client: Client) -> None:
    """Tell the agent that the lab has no uplink."""
    client.post(f"{LAB_API}/uplink", {"machine": [], "router": []})


@contextmanager
def _locked(lab: str) -> Iterator[None]:
    """Prevent other commands from changing the uplink of this lab.

    The lock is on the pause program, a file that exists as long as the lab.
    """
    lock = os.open(rundir.run_directory(lab) / rundir.PAUSE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def dropping_chains() -> list[str]:
    """Return the chains of the machine whose policy may drop packets from the lab."""
    return machine.dropping_chains()


def remove_from_machine(lab: str) -> None:
    """Remove the machine's part of an uplink, of a dead lab or of a running one."""
    path = _record_path(lab)
    record = _read(path)
    if record is None:
        return
    machine.disconnect(record.link)
    machine.load((), record.tables)
    with _forwarding() as links:
        for link in list(links):
            links[link] = [other for other in links[link] if other != lab]
            if not links[link]:
                machine.forward(link, "0")
                del links[link]
    path.unlink(missing_ok=True)


def _planned(lab: str, link: str, config: ClusterConfig) -> UplinkRecord:
    """Choose the addresses of an uplink: the same ones for a lab each time, if they are free.

    Raises LabError if the machine does not forward the only address family of the lab.
    """
    versions = [
        version
        for version in config.networking.versions
        if version == 4 or machine.forwards(version)
    ]
    first = crc32(lab.encode())
    ends = [
        machine.free_link(version, first, desired.PREFIX_LENGTHS[version])
        for version in sorted(versions)
    ]
    if not ends:
        raise LabError(
            "the lab has only IPv6, which this machine does not forward. "
            "Run: sysctl net.ipv6.conf.all.forwarding=1"
        )
    tables = tuple((family, f"kubenetlab-{lab}") for family in ("ip", "ip6"))
    return UplinkRecord(
        link, tuple(own for own, _ in ends), tuple(peer for _, peer in ends), tables
    )


def _require_free(published: Sequence[PublishedPort]) -> None:
    """Raise LabError for ports on which programs of the machine listen: they would lose traffic."""
    taken = [
        port
        for port in published
        if machine.is_port_in_use(port.listen_address, port.port, port.protocol, port.version)
    ]
    if taken:
        ports = ", ".join(dict.fromkeys(f"{port.port}/{port.protocol.upper()}" for port in taken))
        raise LabError(
            f"extraPortMappings: a program of this machine listens on {ports}; "
            "take another hostPort, or end the program (ss -lntup shows it)"
        )


def _enable_forwarding(lab: str) -> None:
    """Enable forwarding on all links of the machine, and record those on which it was disabled."""
    with _forwarding() as links:
        for link in (*links, *machine.links_without_forwarding()):
            if lab not in links.setdefault(link, []):
                links[link].append(lab)
    for link in links:
        machine.forward(link, "1")


@contextmanager
def _forwarding() -> Iterator[dict[str, list[str]]]:
    """Yield the record of forwarding: labs by the name of a link on which it was enabled for them.

    The record is locked within the block, and written at its end.
    """
    path = rundir.base_directory() / rundir.FORWARDING
    lock = os.open(rundir.base_directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            links = msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
        except (FileNotFoundError, msgspec.DecodeError):
            links = {}
        yield links
        if links:
            _write(path, msgspec.json.encode(links))
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _write(path: Path, data: bytes) -> None:
    """Replace the contents of a file.

    On a full disk, overwrite the file in place if the new contents are not longer.
    Raises OSError if that is not possible.
    """
    try:
        replace_file(path, data)
    except OSError:
        if not path.exists() or len(data) > path.stat().st_size:
            raise
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()


def _record_path(lab: str) -> Path:
    return rundir.run_directory(lab) / rundir.UPLINK


def _read(path: Path) -> UplinkRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=UplinkRecord)
    except (OSError, msgspec.DecodeError):
        return None
