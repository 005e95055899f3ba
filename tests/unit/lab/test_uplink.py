"""Record of the uplink, and selection of the machine's name servers."""

from __future__ import annotations

import errno
from ipaddress import ip_network
from pathlib import Path

import pytest

from kubenetlab.lab import uplink
from kubenetlab.lab.runtime import dns_forwarder


def test_a_shorter_record_is_written_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a lab can be taken down; a longer record is an error and leaves the file as it is."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "forwarding.json"
    path.write_bytes(b'{"eth0":["a","b"]}')
    monkeypatch.setattr(uplink, "replace_file", full)
    uplink._write(path, b'{"eth0":["b"]}')
    assert path.read_bytes() == b'{"eth0":["b"]}'
    with pytest.raises(OSError, match="No space left"):
        uplink._write(path, b'{"eth0":["b","c"]}')
    assert path.read_bytes() == b'{"eth0":["b"]}'
    with pytest.raises(OSError, match="No space left"):
        uplink._write(tmp_path / "new", b"")


def test_only_reachable_name_servers_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file with one counts; loopback, link-local and the lab's own servers do not."""
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr(dns_forwarder, "RESOLV_CONFS", (str(first), str(second)))
    assert dns_forwarder.name_servers() == []
    first.write_bytes(
        b"# caf\xe9\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver garbage\n"
        b"nameserver 192.0.2.1:53\nnameserver\n"
    )
    second.write_text(
        "nameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch example\n"
    )
    assert dns_forwarder.name_servers() == ["10.96.0.10", "192.0.2.1", "2001:db8::1"]
    assert dns_forwarder.name_servers([ip_network("10.96.0.0/16"), ip_network("fd00::/8")]) == [
        "192.0.2.1",
        "2001:db8::1",
    ]
