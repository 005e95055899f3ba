"""The seccomp filter that keeps programs from typing into the caller's terminal."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from kubenetlab.kernel.processes import privileges

ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
TIOCSTI, TIOCLINUX, TCGETS = 0x5412, 0x541C, 0x5401
X86_64, I386, AARCH64, ARM, RISCV64 = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0xC00000F3


def verdict(architecture: int, number: int, request: int) -> int:
    """Return the filter's result for a system call, by interpreting its classic BPF."""
    data = struct.pack(
        "<iIQ6Q",
        number if number < 1 << 31 else number - (1 << 32),
        architecture,
        0,
        0,
        request,
        0,
        0,
        0,
        0,
    )
    program = [
        struct.unpack_from("=HBBI", privileges._TERMINAL_FILTER, at)
        for at in range(0, len(privileges._TERMINAL_FILTER), 8)
    ]
    at = word = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            (word,) = struct.unpack_from("<I", data, value)
        elif code == 0x15:
            at += if_true if word == value else if_false
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize(
    ("architecture", "ioctl"),
    [(X86_64, 16), (X86_64, 0x40000000 | 514), (I386, 54), (AARCH64, 29), (ARM, 54)],
    ids=["x86_64", "x32", "i386", "aarch64", "arm"],
)
def test_requests_that_type_into_a_terminal_are_refused(architecture: int, ioctl: int) -> None:
    """Bits above the 32 that the kernel evaluates make no difference; other calls are allowed."""
    for request in (TIOCSTI, TIOCLINUX, TIOCSTI | 1 << 32, TIOCLINUX | 1 << 63):
        assert verdict(architecture, ioctl, request) == REFUSE
        assert verdict(architecture, ioctl + 1, request) == ALLOW
    assert verdict(architecture, ioctl, TCGETS) == ALLOW


def test_numbers_of_one_architecture_are_not_applied_to_another() -> None:
    """54 is setsockopt() on x86_64, whose second argument may have any value."""
    assert verdict(X86_64, 54, TIOCSTI) == ALLOW
    assert verdict(RISCV64, 29, TIOCSTI) == ALLOW


def test_without_seccomp_the_controlling_terminal_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel refuses the requests for any other terminal. Other errors are raised."""
    calls: list[str] = []
    number = errno.EINVAL

    def refuse(_: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(privileges, "filter_system_calls", refuse)
    monkeypatch.setattr(privileges, "_keep_only", lambda numbers: calls.append("confined"))
    monkeypatch.setattr(os, "setsid", lambda: calls.append("setsid"))
    privileges.confine_tool()
    assert calls == ["confined", "setsid"]
    number = errno.EFAULT
    with pytest.raises(OSError, match="Bad address"):
        privileges.confine_tool()
