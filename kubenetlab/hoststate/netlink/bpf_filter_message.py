"""Decoding of tc messages about BPF filters, in pyroute2's notation.

pyroute2's own class lacks the ID of the program (TCA_BPF_ID), which the kernel reports. This module
is imported by the first such message (message_classes.py).
Source: include/uapi/linux/pkt_cls.h (6.12).
"""

from __future__ import annotations

from pyroute2.netlink import nla, nlmsg


# pyroute2 has no type hints, so mypy sees both base classes as Any.
class BpfFilterMessage(nlmsg):  # type: ignore[misc]
    """tcmsg; the options of filters that are not BPF filters must not be read."""

    fields = (
        ("family", "B"),
        ("pad1", "B"),
        ("pad2", "H"),
        ("index", "i"),
        ("handle", "I"),
        ("parent", "I"),
        ("info", "I"),
    )
    nla_map = (
        ("TCA_UNSPEC", "none"),
        ("TCA_KIND", "asciiz"),
        ("TCA_OPTIONS", "options"),
    )

    class options(nla):  # type: ignore[misc]  # noqa: N801
        """Attributes within TCA_OPTIONS; pyroute2 finds the class by this name."""

        nla_map = (
            ("TCA_BPF_UNSPEC", "none"),
            ("TCA_BPF_ACT", "hex"),
            ("TCA_BPF_POLICE", "hex"),
            ("TCA_BPF_CLASSID", "uint32"),
            ("TCA_BPF_OPS_LEN", "uint16"),
            ("TCA_BPF_OPS", "hex"),
            ("TCA_BPF_FD", "uint32"),
            ("TCA_BPF_NAME", "asciiz"),
            ("TCA_BPF_FLAGS", "uint32"),
            ("TCA_BPF_FLAGS_GEN", "uint32"),
            ("TCA_BPF_TAG", "hex"),
            ("TCA_BPF_ID", "uint32"),
        )
