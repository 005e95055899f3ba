"""libbpf by ctypes: loading of BPF objects, access to programs and maps, test runs.

Source: libbpf 1.x bpf.h, libbpf.h; include/uapi/linux/bpf.h (struct bpf_prog_info, bpf_map_info).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from kubenetlab.errors import RequirementError

LIBRARY: Final = "libbpf.so.1"
INSTALL_HINT: Final = "install it with: apt-get install libbpf1"

_PROG_INFO = struct.Struct("=II8sIIQQQIIQ16s")
"""type, id, tag, jited_len, xlated_len, jited, xlated, load_time, uid, nr_map_ids, map_ids, name"""
_MAP_INFO = struct.Struct("=6I16s")
"""type, id, key_size, value_size, max_entries, flags, name"""
MAX_NAME: Final = 15
"""BPF_OBJ_NAME_LEN without the terminating zero: the kernel cuts names of programs and maps."""
_MAX_MAPS = 64
_MAX_PACKET = 65536
_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _TestRun(ctypes.Structure):
    """Layout of struct bpf_test_run_opts."""

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
    """An open BPF map."""

    fd: int
    key_size: int
    value_size: int
    max_entries: int


class TestRunResult(NamedTuple):
    """Return value of a program, and the packet after it ran."""

    verdict: int
    packet: bytes


def has_library() -> bool:
    """Return True if libbpf can be loaded."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


class LoadedPrograms:
    """Loaded programs and their maps.

    The kernel keeps them as long as this object is open or a link has the programs.
    """

    def __init__(
        self, library: ctypes.CDLL, programs: Mapping[str, int], maps: Mapping[str, Map]
    ) -> None:
        self._library = library
        self.programs = dict(programs)
        self.maps = dict(maps)

    def set(self, name: str, key: bytes, value: bytes) -> None:
        map_ = self.maps[name]
        if (len(key), len(value)) != (map_.key_size, map_.value_size):
            raise ValueError(
                f"{name} has keys of {map_.key_size} and values of {map_.value_size} bytes"
            )
        _check(
            self._library.bpf_map_update_elem(map_.fd, key, value, ctypes.c_uint64(0)),
            f"{name} {key.hex()}",
        )

    def delete(self, name: str, key: bytes) -> None:
        """Delete an entry; a missing entry is no error."""
        try:
            _check(
                self._library.bpf_map_delete_elem(self.maps[name].fd, key), f"{name} {key.hex()}"
            )
        except FileNotFoundError:
            pass

    def value(self, name: str, key: bytes) -> bytes | None:
        """Return the value of a key; None if there is no entry."""
        map_ = self.maps[name]
        value = ctypes.create_string_buffer(map_.value_size)
        return value.raw if self._library.bpf_map_lookup_elem(map_.fd, key, value) == 0 else None

    def keys(self, name: str) -> Iterator[bytes]:
        """Yield the keys in the map's order.

        The iteration starts again if the current key is deleted meanwhile.
        """
        map_ = self.maps[name]
        key, previous = ctypes.create_string_buffer(map_.key_size), None
        while self._library.bpf_map_get_next_key(map_.fd, previous, key) == 0:
            yield key.raw
            previous = key.raw

    def entries(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of each entry; entries deleted meanwhile are left out."""
        for key in tuple(self.keys(name)):
            if (value := self.value(name, key)) is not None:
                yield key, value

    def read_events(self, name: str) -> RingReader:
        """Return a reader of the events of a ring buffer, from the oldest one on."""
        return RingReader(self._library, self.maps[name].fd)

    def try_packet(self, program: str, packet: bytes, context: bytes = b"") -> TestRunResult:
        """Run a program on an Ethernet frame, without any link.

        context: struct __sk_buff; empty: zeros.
        """
        return self._try(program, packet, context)[0]

    def context_after(self, program: str, packet: bytes, context: bytes) -> bytes:
        """Run a program as `try_packet` does; return the resulting struct __sk_buff."""
        return self._try(program, packet, context)[1]

    def _try(self, program: str, packet: bytes, context: bytes) -> tuple[TestRunResult, bytes]:
        out = ctypes.create_string_buffer(_MAX_PACKET)
        context_out = ctypes.create_string_buffer(len(context) or 1)
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
            options.ctx_out = ctypes.cast(context_out, ctypes.c_void_p)
            options.ctx_size_out = len(context)
        _check(
            self._library.bpf_prog_test_run_opts(self.programs[program], ctypes.byref(options)),
            program,
        )
        verdict = ctypes.c_int32(options.retval).value
        result = TestRunResult(verdict, out.raw[: options.data_size_out])
        return result, context_out.raw[: len(context)]

    def close(self) -> None:
        for fd in (*self.programs.values(), *(map_.fd for map_ in self.maps.values())):
            os.close(fd)
        self.programs, self.maps = {}, {}


class RingReader:
    """Reader of a ring buffer, which has at most one at a time.

    The programs drop new events while the buffer is full of unread ones.
    """

    def __init__(self, library: ctypes.CDLL, fd: int) -> None:
        self._library = library
        self._events: list[bytes] = []
        self._sample = _SAMPLE(self._add)
        self._ring = ctypes.c_void_p(library.ring_buffer__new(fd, self._sample, None, None))
        if not self._ring:
            number = ctypes.get_errno()
            raise OSError(number, f"BPF ring buffer: {os.strerror(number)}")

    def read(self) -> list[bytes]:
        """Return all unread events, which are removed from the buffer."""
        _check(self._library.ring_buffer__consume(self._ring), "BPF ring buffer")
        events, self._events[:] = list(self._events), []
        return events

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are events."""
        fd: int = self._library.ring_buffer__epoll_fd(self._ring)
        return fd

    def close(self) -> None:
        self._library.ring_buffer__free(self._ring)

    def _add(self, context: int | None, data: int, size: int) -> int:
        self._events.append(ctypes.string_at(data, size))
        return 0


class Libbpf:
    """The library."""

    def __init__(self) -> None:
        """Load the library. Raises RequirementError if it is missing."""
        try:
            self._library = library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError:
            raise RequirementError(f"{LIBRARY} is not installed; {INSTALL_HINT}") from None
        for name in (
            "bpf_object__open_mem",
            "bpf_object__next_program",
            "bpf_object__next_map",
            "ring_buffer__new",
        ):
            getattr(library, name).restype = ctypes.c_void_p
        for name in ("bpf_program__name", "bpf_map__name"):
            getattr(library, name).restype = ctypes.c_char_p
        self._print = _PRINT(lambda level, text, arguments: 0)  # errors are reported by errno
        library.libbpf_set_print(self._print)

    def load(self, data: bytes, maps: Mapping[str, Map] = MappingProxyType({})) -> LoadedPrograms:
        """Load an object file: create its maps, verify and load its programs. Raises OSError.

        maps: existing maps, by the kernel's names, which the programs use instead of new ones.
        """
        bpf_object = ctypes.c_void_p(
            self._library.bpf_object__open_mem(data, ctypes.c_size_t(len(data)), None)
        )
        if not bpf_object:
            number = ctypes.get_errno()
            raise OSError(number, f"BPF object: {os.strerror(number)}")
        try:
            for part in self._parts(bpf_object, "map"):
                name = self._library.bpf_map__name(ctypes.c_void_p(part)).decode()
                if (existing := maps.get(name[:MAX_NAME])) is not None:
                    _check(
                        self._library.bpf_map__reuse_fd(ctypes.c_void_p(part), existing.fd),
                        f"BPF map {name}",
                    )
            _check(self._library.bpf_object__load(bpf_object), "BPF object")
            programs = {
                name: os.dup(fd) for name, fd in self._programs_or_maps(bpf_object, "program")
            }
            loaded_maps = {
                name: self._map(os.dup(fd))[1]
                for name, fd in self._programs_or_maps(bpf_object, "map")
            }
        finally:
            self._library.bpf_object__close(bpf_object)
        return LoadedPrograms(self._library, programs, loaded_maps)

    def open_loaded(self, programs: Mapping[str, int]) -> LoadedPrograms:
        """Open loaded programs by their kernel IDs, with all maps that they use."""
        program_fds = {
            name: _check(self._library.bpf_prog_get_fd_by_id(id_), f"BPF program {name}")
            for name, id_ in programs.items()
        }
        map_ids = dict.fromkeys(id_ for fd in program_fds.values() for id_ in self._map_ids(fd))
        maps = dict(
            self._map(_check(self._library.bpf_map_get_fd_by_id(id_), f"BPF map {id_}"))
            for id_ in map_ids
        )
        return LoadedPrograms(self._library, program_fds, maps)

    def id_of(self, program: int) -> int:
        """Return the kernel ID of an open program."""
        program_id: int = _PROG_INFO.unpack(self._info(program, bytes(_PROG_INFO.size)))[1]
        return program_id

    def _programs_or_maps(
        self, bpf_object: ctypes.c_void_p, kind: str
    ) -> Iterator[tuple[str, int]]:
        """Yield name and descriptor of each program or map of a BPF object.

        kind: program or map.
        """
        name, fd = (getattr(self._library, f"bpf_{kind}__{call}") for call in ("name", "fd"))
        for part in self._parts(bpf_object, kind):
            yield name(ctypes.c_void_p(part)).decode(), fd(ctypes.c_void_p(part))

    def _parts(self, bpf_object: ctypes.c_void_p, kind: str) -> Iterator[int]:
        """Yield the pointer to each program or map of a BPF object."""
        next_part = getattr(self._library, f"bpf_object__next_{kind}")
        part = next_part(bpf_object, None)
        while part:
            yield part
            part = next_part(bpf_object, ctypes.c_void_p(part))

    def _map(self, fd: int) -> tuple[str, Map]:
        info = self._info(fd, bytes(_MAP_INFO.size))
        _, _, key_size, value_size, max_entries, _, name = _MAP_INFO.unpack(info)
        return name.rstrip(b"\0").decode(), Map(fd, key_size, value_size, max_entries)

    def _map_ids(self, fd: int) -> Sequence[int]:
        ids = (ctypes.c_uint32 * _MAX_MAPS)()
        request = _PROG_INFO.pack(
            0, 0, b"", 0, 0, 0, 0, 0, 0, _MAX_MAPS, ctypes.addressof(ids), b""
        )
        count = _PROG_INFO.unpack(self._info(fd, request))[9]
        return ids[:count]

    def _info(self, fd: int, request: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(request, len(request))
        length = ctypes.c_uint32(len(request))
        _check(
            self._library.bpf_obj_get_info_by_fd(fd, buffer, ctypes.byref(length)),
            "BPF object information",
        )
        return buffer.raw


def _check(result: int, operation: str) -> int:
    if result < 0:
        raise OSError(-result, f"{operation}: {os.strerror(-result)}")
    return result
