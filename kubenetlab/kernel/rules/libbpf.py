"""BPF objects by libbpf, called by ctypes: loaded, found again by the ids of what runs, their maps read and written, programs tried.

Source: libbpf 1.x bpf.h, libbpf.h; include/uapi/linux/bpf.h (struct bpf_prog_info, bpf_map_info).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kubenetlab.errors import RequirementError

LIBRARY: Final = "libbpf.so.1"
INSTALL_HINT: Final = "install it with: apt-get install libbpf1"

_PROG_INFO = struct.Struct("=II8sIIQQQIIQ16s")
"""type, id, tag, jited_len, xlated_len, jited, xlated, load_time, uid, nr_map_ids, map_ids, name"""
_MAP_INFO = struct.Struct("=6I16s")
"""type, id, key_size, value_size, max_entries, flags, name"""
_MAX_MAPS = 64
_MAX_PACKET = 65536
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Map(NamedTuple):
    """A map that is open."""

    fd: int
    key_size: int
    value_size: int


class TestRunResult(NamedTuple):
    """What a program said of a packet, and what it made of it."""

    verdict: int
    packet: bytes


def has_library() -> bool:
    """True when libbpf can be loaded."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


class LoadedPrograms:
    """Programs in the kernel, with their maps. They live as long as somebody holds them: this object, or a link on which they are."""

    def __init__(self, library: Any, programs: Mapping[str, int], maps: Mapping[str, Map]) -> None:
        self._library = library
        self.programs = dict(programs)
        self.maps = dict(maps)

    def set(self, name: str, key: bytes, value: bytes) -> None:
        found = self.maps[name]
        if (len(key), len(value)) != (found.key_size, found.value_size):
            raise ValueError(
                f"{name} has keys of {found.key_size} and values of {found.value_size} bytes"
            )
        _checked(
            self._library.bpf_map_update_elem(found.fd, key, value, ctypes.c_uint64(0)),
            f"{name} {key.hex()}",
        )

    def delete(self, name: str, key: bytes) -> None:
        """What is gone already is no fault."""
        try:
            _checked(
                self._library.bpf_map_delete_elem(self.maps[name].fd, key), f"{name} {key.hex()}"
            )
        except FileNotFoundError:
            pass

    def value(self, name: str, key: bytes) -> bytes | None:
        """What is under a key."""
        found = self.maps[name]
        value = ctypes.create_string_buffer(found.value_size)
        return value.raw if self._library.bpf_map_lookup_elem(found.fd, key, value) == 0 else None

    def keys(self, name: str) -> Iterator[bytes]:
        """Each as it is come to; where the last one is taken away meanwhile, it begins again."""
        found = self.maps[name]
        key, before = ctypes.create_string_buffer(found.key_size), None
        while self._library.bpf_map_get_next_key(found.fd, before, key) == 0:
            yield key.raw
            before = key.raw

    def entries(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each; of a map that changes meanwhile, some of them."""
        for key in tuple(self.keys(name)):
            if (value := self.value(name, key)) is not None:
                yield key, value

    def try_packet(self, program: str, packet: bytes, context: bytes = b"") -> TestRunResult:
        """Gives a program a frame, without any link. `context` is a struct __sk_buff."""
        out = ctypes.create_string_buffer(_MAX_PACKET)
        options = _TestRun(
            sz=ctypes.sizeof(_TestRun),
            data_in=packet,
            data_size_in=len(packet),
            data_size_out=len(out),
            repeat=1,
        )
        options.data_out = ctypes.cast(out, ctypes.c_void_p)
        if context:
            options.ctx_in, options.ctx_size_in = context, len(context)
        _checked(
            self._library.bpf_prog_test_run_opts(self.programs[program], ctypes.byref(options)),
            program,
        )
        verdict = ctypes.c_int32(options.retval).value
        return TestRunResult(verdict, out.raw[: options.data_size_out])

    def close(self) -> None:
        for fd in (*self.programs.values(), *(found.fd for found in self.maps.values())):
            os.close(fd)
        self.programs, self.maps = {}, {}


class Libbpf:
    """The library. Raises RequirementError where it is missing."""

    def __init__(self) -> None:
        try:
            self._library = library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError:
            raise RequirementError(f"{LIBRARY} is not here; {INSTALL_HINT}") from None
        for name in ("bpf_object__open_mem", "bpf_object__next_program", "bpf_object__next_map"):
            getattr(library, name).restype = ctypes.c_void_p
        for name in ("bpf_program__name", "bpf_map__name"):
            getattr(library, name).restype = ctypes.c_char_p
        self._print = _PRINT(lambda level, text, arguments: 0)  # what is wrong is told by errno
        library.libbpf_set_print(self._print)

    def load(self, data: bytes) -> LoadedPrograms:
        """Makes the maps of an object file and has the kernel check and take in its programs. Raises OSError."""
        opened = ctypes.c_void_p(
            self._library.bpf_object__open_mem(data, ctypes.c_size_t(len(data)), None)
        )
        if not opened:
            number = ctypes.get_errno()
            raise OSError(number, f"BPF object: {os.strerror(number)}")
        try:
            _checked(self._library.bpf_object__load(opened), "BPF object")
            programs = {name: os.dup(fd) for name, fd in self._parts(opened, "program")}
            maps = {name: self._map(os.dup(fd))[1] for name, fd in self._parts(opened, "map")}
        finally:
            self._library.bpf_object__close(opened)
        return LoadedPrograms(self._library, programs, maps)

    def found(self, programs: Mapping[str, int]) -> LoadedPrograms:
        """Programs that are in the kernel, by their ids, with all their maps."""
        opened = {
            name: _checked(self._library.bpf_prog_get_fd_by_id(id_), f"BPF program {name}")
            for name, id_ in programs.items()
        }
        map_ids = dict.fromkeys(id_ for fd in opened.values() for id_ in self._map_ids(fd))
        maps = dict(
            self._map(_checked(self._library.bpf_map_get_fd_by_id(id_), f"BPF map {id_}"))
            for id_ in map_ids
        )
        return LoadedPrograms(self._library, opened, maps)

    def id_of(self, program: int) -> int:
        """The number under which the kernel lists a program that is open."""
        found: int = _PROG_INFO.unpack(self._info(program, bytes(_PROG_INFO.size)))[1]
        return found

    def _parts(self, opened: ctypes.c_void_p, kind: str) -> Iterator[tuple[str, int]]:
        """Name and descriptor of each program or map of an open object."""
        following, name, fd = (
            getattr(self._library, f"bpf_{call}")
            for call in (f"object__next_{kind}", f"{kind}__name", f"{kind}__fd")
        )
        part = following(opened, None)
        while part:
            yield name(ctypes.c_void_p(part)).decode(), fd(ctypes.c_void_p(part))
            part = following(opened, ctypes.c_void_p(part))

    def _map(self, fd: int) -> tuple[str, Map]:
        info = self._info(fd, bytes(_MAP_INFO.size))
        _, _, key_size, value_size, _, _, name = _MAP_INFO.unpack(info)
        return name.rstrip(b"\0").decode(), Map(fd, key_size, value_size)

    def _map_ids(self, fd: int) -> Sequence[int]:
        ids = (ctypes.c_uint32 * _MAX_MAPS)()
        asked = _PROG_INFO.pack(0, 0, b"", 0, 0, 0, 0, 0, 0, _MAX_MAPS, ctypes.addressof(ids), b"")
        count = _PROG_INFO.unpack(self._info(fd, asked))[9]
        return ids[:count]

    def _info(self, fd: int, asked: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(asked, len(asked))
        length = ctypes.c_uint32(len(asked))
        _checked(
            self._library.bpf_obj_get_info_by_fd(fd, buffer, ctypes.byref(length)),
            "BPF object information",
        )
        return buffer.raw


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result
