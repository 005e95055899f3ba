"""What a container's command may do: what container runtimes let it do by default, but for making device nodes.

Source: capabilities(7); github.com/containerd/containerd oci/spec.go (defaultUnixCaps); include/uapi/linux/capability.h.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from kubenetlab.kernel.syscalls import clear_inheritable_capabilities, drop_from_bounding_set, set_no_new_privileges

ALL: Final = "ALL"

DEFAULT: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
"""Capability → its number."""
NETWORK: Final = {"NET_BROADCAST": 11, "NET_ADMIN": 12}
"""Those that a container may ask for: they reach no further than its pod's network."""


def confine(add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
    """Leaves the process that this one becomes with the default capabilities, more of the network's and fewer as asked."""
    more, less = _names(add), _names(drop)
    kept = {} if ALL in less else {name: number for name, number in DEFAULT.items() if name not in less}
    kept |= {name: number for name, number in (DEFAULT | NETWORK).items() if name in more or ALL in more}
    numbers = set(kept.values())
    capability = 0
    while True:
        try:
            if capability not in numbers:
                drop_from_bounding_set(capability)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # the last one that this kernel knows was the one before
        capability += 1
    clear_inheritable_capabilities()
    set_no_new_privileges()


def _names(given: Iterable[str]) -> set[str]:
    """Without the prefix that some write."""
    return {name.upper().removeprefix("CAP_") for name in given}
