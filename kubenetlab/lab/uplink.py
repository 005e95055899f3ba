"""A lab's uplink, made and taken away by the command that asks for it: the lab's own processes cannot reach the machine's network.

The machine's end of the link goes with the lab, whoever kills it. The tables, and that links of the machine forward, are written down
before they are made; whoever finds the lab dead puts them back. Links that forward are shared by all labs with uplinks.
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
from kubenetlab.datapath import uplink as wanted
from kubenetlab.datapath.port_mappings import PublishedPort, published_ports
from kubenetlab.errors import KubenetlabError, LabError, refusal
from kubenetlab.kernel import uplink as here
from kubenetlab.kernel.files import replace_file
from kubenetlab.lab import rundir
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


class UplinkRecord(Struct, frozen=True):
    """What is the machine's of a lab's uplink."""

    link: str
    machine: tuple[str, ...]
    router: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]


def bring(client: Client, config: ClusterConfig) -> UplinkRecord:
    """Make the uplink of a lab, or correct what there is of it. Raises LabError, after removing what was made."""
    with _alone(client.lab):
        return _bring(client, config)


def _bring(client: Client, config: ClusterConfig) -> UplinkRecord:
    lab = client.lab
    path = _record(lab)
    seen = client.inspect()
    link, before = names.machine_link(lab), _read(path)
    try:
        record = (
            before if before is not None and here.has_link(link) else _planned(lab, link, config)
        )
        published = published_ports(
            config, {node["name"]: node["addresses"] for node in seen["nodes"]}
        )
        if before is None:
            _require_free(published)
        objects = tuple(
            wanted.machine(
                lab, Uplink(machine=record.machine, router=record.router), published, config
            )
        )
        replace_file(path, msgspec.json.encode(record))
        _forward(lab)
        addresses = [
            f"{address}/{wanted.PREFIX_LENGTHS[6 if ':' in address else 4]}"
            for address in record.machine
        ]
        if not here.is_connected(link, addresses):
            here.disconnect(link)
            here.connect(
                link, names.ROUTER_UPLINK, names.run_netns_name(lab, names.ROUTER), addresses
            )
        here.load(objects, record.tables)
        client.post(f"{LAB_API}/uplink", {"machine": record.machine, "router": record.router})
    except (OSError, KubenetlabError) as error:
        with suppress(OSError, KubenetlabError):  # the lab may be what failed
            _tell_of_none(client)
        take_away(lab)
        if isinstance(error, OSError):
            raise LabError(f"lab {lab} has no uplink: {refusal(error)}") from error
        raise
    return record


def remove(client: Client) -> bool:
    """Remove the uplink of a running lab; return False where there is none."""
    with _alone(client.lab):
        if not _record(client.lab).exists():
            return False
        _tell_of_none(client)
        take_away(client.lab)
        return True


def _tell_of_none(client: Client) -> None:
    client.post(f"{LAB_API}/uplink", {"machine": [], "router": []})


@contextmanager
def _alone(lab: str) -> Iterator[None]:
    """Nobody else makes this lab's uplink or takes it away meanwhile. A file is held that stays as long as the lab does."""
    held = os.open(rundir.of(lab) / rundir.PAUSE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def in_the_way() -> list[str]:
    """Chains of the machine that may drop what the lab sends out, and whose business that is."""
    return here.dropping()


def take_away(lab: str) -> None:
    """What is the machine's of an uplink: nothing of it stays. For a lab that is dead, and one that is to have none."""
    path = _record(lab)
    record = _read(path)
    if record is None:
        return
    here.disconnect(record.link)
    here.load((), record.tables)
    with _forwarding() as links:
        for link in list(links):
            links[link] = [other for other in links[link] if other != lab]
            if not links[link]:
                here.forward(link, "0")
                del links[link]
    path.unlink(missing_ok=True)


def _planned(lab: str, link: str, config: ClusterConfig) -> UplinkRecord:
    """Where the link's addresses are from: the same ones each time, as long as they are free."""
    versions = [
        version for version in config.networking.versions if version == 4 or here.forwards(version)
    ]
    first = crc32(lab.encode())
    ends = [
        here.free_link(version, first, wanted.PREFIX_LENGTHS[version])
        for version in sorted(versions)
    ]
    if not ends:
        raise LabError(
            "the lab has IPv6 alone, which this machine does not forward: sysctl net.ipv6.conf.all.forwarding=1"
        )
    tables = tuple((family, f"kubenetlab-{lab}") for family in ("ip", "ip6"))
    return UplinkRecord(
        link, tuple(own for own, _ in ends), tuple(other for _, other in ends), tables
    )


def _require_free(published: Sequence[PublishedPort]) -> None:
    """Raises LabError for ports that programs of the machine have: those would not be reached any more."""
    taken = [
        port
        for port in published
        if here.is_listened_at(port.listen_address, port.port, port.protocol, port.version)
    ]
    if taken:
        words = ", ".join(dict.fromkeys(f"{port.port}/{port.protocol.upper()}" for port in taken))
        raise LabError(
            f"extraPortMappings: a program of this machine listens on {words}; take another hostPort, or end it (ss -lntup shows which it is)"
        )


def _forward(lab: str) -> None:
    """Has all of the machine's links forward, and remembers which did not."""
    with _forwarding() as links:
        for link in (*links, *here.not_forwarding()):
            if lab not in links.setdefault(link, []):
                links[link].append(lab)
    for link in links:
        here.forward(link, "1")


@contextmanager
def _forwarding() -> Iterator[dict[str, list[str]]]:
    """Link of the machine → the labs for which it forwards, for as long as nobody else changes it; written down at the end."""
    path = rundir.base() / rundir.FORWARDING
    lock = os.open(rundir.base(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
    """Where there is no room for another file, what has become shorter takes the place of what it was. Raises OSError."""
    try:
        replace_file(path, data)
    except OSError:
        if not path.exists() or len(data) > path.stat().st_size:
            raise
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()


def _record(lab: str) -> Path:
    return rundir.of(lab) / rundir.UPLINK


def _read(path: Path) -> UplinkRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=UplinkRecord)
    except (OSError, msgspec.DecodeError):
        return None
