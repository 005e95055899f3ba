"""The initial RAM file system of the kernel, as a cpio archive.

Source: Documentation/driver-api/early-userspace/buffer-format.rst, format newc.
"""

from __future__ import annotations

import lzma
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.vm.debian import VmError

INIT = Path(__file__).with_name("init.sh")
DIRECTORIES = ("bin", "changes", "dev", "files", "modules", "new", "proc", "sys")
_CONSOLE = (5, 1)


def initramfs(modules: Iterable[Path], files: Mapping[str, bytes]) -> bytes:
    """Return an archive with init.sh, busybox, modules in loading order, and other files."""
    entries = [_entry(name, stat.S_IFDIR | 0o755) for name in DIRECTORIES]
    entries.append(_entry("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE))
    entries.append(_entry("init", stat.S_IFREG | 0o755, INIT.read_bytes()))
    entries.append(_entry("bin/busybox", stat.S_IFREG | 0o755, _busybox()))
    entries += [
        _entry(f"modules/{order:02}.ko", stat.S_IFREG | 0o644, _module(path))
        for order, path in enumerate(modules)
    ]
    entries += [_entry(name, stat.S_IFREG | 0o644, content) for name, content in files.items()]
    entries.append(_entry("TRAILER!!!", 0))
    return b"".join(entries)


def _entry(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    path = name.encode() + b"\0"
    # inode (0: no hard links), mode, uid, gid, links, mtime, size, device of the file, device
    # number of a device file, length of the name, checksum
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
    return _padded(b"070701" + b"".join(b"%08x" % number for number in numbers) + path) + _padded(
        content
    )


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)


def _busybox() -> bytes:
    program = shutil.which("busybox")
    content = Path(program).read_bytes() if program else b""
    if not content or b"/ld-linux" in content:
        raise VmError("busybox must be statically linked: apt-get install busybox-static")
    return content


def _module(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content
