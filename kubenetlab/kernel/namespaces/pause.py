"""The pause program: the smallest program that can hold a pod's namespaces, as machine code.

It ignores SIGCHLD, so that as PID 1 of the pod it leaves no zombies (the kernel reaps for it), and
sleeps forever. Its title, in argv[0], names the sandbox it holds. Generating it needs no compiler
and no binary per architecture in the package: 188 bytes on x86_64.

    rt_sigaction(SIGCHLD, {SIG_IGN}, NULL, 8); for (;;) pause();

Source: ELF-64 Object File Format 1.5; Intel SDM vol. 2; Arm ARM C6; arch/*/include/asm/unistd.h.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kubenetlab.errors import RequirementError
from kubenetlab.kernel.files import replace_file

LOAD_ADDRESS = 0x400000
_ELF_HEADER_BYTES, _PROGRAM_HEADER_BYTES = 64, 56
_SIG_IGN = struct.pack("<4Q", 1, 0, 0, 0)
"""struct sigaction: handler, flags, restorer, mask.

The file contains all of it because Linux before 6.10 and qemu refuse a segment that is not writable
and longer in memory than in the file."""

_X86_64 = bytes.fromhex(
    "bf11000000"  # mov edi, 17        SIGCHLD
    "488d3518000000"  # lea rsi, [rip+24]  the action, behind the code
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "b80d000000"  # mov eax, 13        rt_sigaction
    "0f05"  # syscall
    "b822000000"  # mov eax, 34        pause
    "0f05"  # syscall
    "ebf7"  # jmp to mov eax, 34
)
_AARCH64 = struct.pack(
    "<13I",
    0xD2800220,  # mov x0, #17         SIGCHLD
    0x10000181,  # adr x1, .+48        the action, behind the code
    0xD2800002,  # mov x2, #0
    0xD2800103,  # mov x3, #8
    0xD28010C8,  # mov x8, #134        rt_sigaction
    0xD4000001,  # svc #0
    0xD2800000,  # mov x0, #0
    0xD2800001,  # mov x1, #0
    0xD2800002,  # mov x2, #0
    0xD2800003,  # mov x3, #0
    0xD2800928,  # mov x8, #73         ppoll
    0xD4000001,  # svc #0
    0x17FFFFFA,  # b to mov x0, #0
)
_CODE: Final[Mapping[str, tuple[int, bytes]]] = {
    "x86_64": (62, _X86_64),
    "aarch64": (183, _AARCH64),
}
"""Machine as named by `uname -m` → (ELF machine number, code)."""


def program(machine: str | None = None) -> bytes:
    """Return the executable for a machine, by default for this one.

    Raises RequirementError if the machine is not supported.
    """
    machine = machine or platform.machine()
    if machine not in _CODE:
        raise RequirementError(f"no pause program for {machine}; supported: {', '.join(_CODE)}")
    number, code = _CODE[machine]
    offset = _ELF_HEADER_BYTES + _PROGRAM_HEADER_BYTES
    size = offset + len(code) + len(_SIG_IGN)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        2,
        number,
        1,
        LOAD_ADDRESS + offset,
        _ELF_HEADER_BYTES,
        0,
        0,
        _ELF_HEADER_BYTES,
        _PROGRAM_HEADER_BYTES,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000)
    return elf + segment + code + _SIG_IGN


def install(path: Path) -> None:
    """Write the program to a file. Raises OSError with the file's name."""
    replace_file(path, program(), 0o755)
