"""Encoding of sets and maps: their user data and their elements.

Source: nftables src/{mnl,netlink,intervals}.c (1.0.6); libnftnl include/libnftnl/udata.h (1.2.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kubenetlab.hoststate.netlink.wire import attribute, nested
from kubenetlab.hoststate.rules.nftables.datatypes import (
    BYTEORDER_BIG,
    BYTEORDER_NONE,
    DataType,
    encode_range,
)
from kubenetlab.hoststate.rules.nftables.encoding import (
    ELEMENT_IS_OPEN,
    UDATA_ELEMENT_FLAGS,
    comment_tlv,
    commented,
    data,
    tlv,
    tlv_u32,
    u32,
)

VERDICT_DATA: Final = 0xFFFFFF00
"""NFT_DATA_VERDICT"""
_INTERVAL_END: Final = 1
"""NFT_SET_ELEM_INTERVAL_END"""

(
    _KEY_BYTEORDER,
    _DATA_BYTEORDER,
    _MERGE_ELEMENTS,
    _KEY_TYPEOF,
    _DATA_TYPEOF,
    _EXPRESSION,
    _DATA_INTERVAL,
    _COMMENT,
) = range(8)
"""`enum nftnl_udata_set_types`"""


def set_userdata(
    key: Sequence[DataType],
    value: Sequence[DataType] = (),
    *,
    is_merged: bool = False,
    key_typeof: bytes = b"",
    value_typeof: bytes = b"",
    comment: str = "",
) -> bytes:
    """Return the user data by which `nft list` prints the elements of a set.

    is_merged: nft merges adjacent ranges, which it does for the ranges written in a rule.
    key_typeof, value_typeof: descriptions of expressions, if the set is declared by them.
    """
    parts = [tlv_u32(_KEY_BYTEORDER, _byteorder(key))]
    if value:
        parts.append(tlv_u32(_DATA_BYTEORDER, _byteorder(value)))
    if is_merged:
        parts.append(tlv_u32(_MERGE_ELEMENTS, 1))
    if key_typeof:
        parts.append(tlv(_KEY_TYPEOF, key_typeof))
    if value_typeof:
        parts.append(tlv(_DATA_TYPEOF, value_typeof))
    if value:
        parts.append(tlv_u32(_DATA_INTERVAL, 0))
    if comment:
        parts.append(comment_tlv(_COMMENT, comment))
    return b"".join(parts)


def _byteorder(types: Sequence[DataType]) -> int:
    """Return the byte order of a single type; components of a concatenation have their own."""
    return types[0].byteorder if len(types) == 1 else BYTEORDER_NONE


def encode_element(key: bytes, value: bytes = b"", comment: str = "") -> bytes:
    """Encode an element without a range.

    value: NFTA_SET_ELEM_DATA, or empty.
    """
    return nested(1, data(1, key), value, commented(6, comment) if comment else b"")


def range_element(
    types: Sequence[DataType], components: Sequence[str], value: bytes, comment: str
) -> bytes:
    """Encode an element whose key is a concatenation with ranges (NFTA_SET_ELEM_KEY_END)."""
    first, last = encode_range(types, components)
    return nested(1, data(1, first), data(10, last), value, commented(6, comment))


_IS_OPEN: Final = attribute(6, tlv_u32(UDATA_ELEMENT_FLAGS, ELEMENT_IS_OPEN))
"""User data of a range that ends with the last value, and therefore has no second element."""


def interval_size(elements: Sequence[bytes]) -> int:
    """Return the size of a set of ranges; the end of an open one counts, as in libnftables."""
    return len(elements) + elements[-1].endswith(_IS_OPEN)


def interval_elements(types: Sequence[DataType], values: Sequence[str]) -> Iterator[bytes]:
    """Yield the elements of ranges of a single type, merged and in order.

    Each range has an element at its first value and one after its last value. The kernel keeps both
    in one tree, which begins with an end if the first range does not begin with zero.
    """
    if types[0].byteorder != BYTEORDER_BIG:
        raise ValueError("ranges of numbers in host order cannot be encoded")
    size = types[0].size
    limit = 1 << 8 * size
    ranges = sorted(
        (int.from_bytes(first), int.from_bytes(last))
        for first, last in (encode_range(types, (value,)) for value in values)
    )
    merged: list[list[int]] = []
    for first, last in ranges:
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    if merged[0][0]:
        yield _interval_end(0, size)
    for first, last in merged:
        is_open = last + 1 == limit
        yield nested(1, data(1, first.to_bytes(size)), _IS_OPEN if is_open else b"")
        if not is_open:
            yield _interval_end(last + 1, size)


def _interval_end(key: int, size: int) -> bytes:
    return nested(1, data(1, key.to_bytes(size)), u32(3, _INTERVAL_END))
