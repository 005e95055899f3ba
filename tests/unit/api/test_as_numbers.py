"""AS numbers in Calico's objects: numbers, or texts in two notations."""

from __future__ import annotations

import pytest

from kubenetlab.api.calico.as_numbers import as_number_fault, parse_as_number
from kubenetlab.api.calico.bgp import BGPConfiguration, BGPPeer
from kubenetlab.api.calico.bgp_filters import BGPFilter
from kubenetlab.api.manifests.objects import decode_object
from kubenetlab.api.meta import Resource
from kubenetlab.api.text.decode import format_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64512", 64512),
        ("1", 1),
        ("4294967295", 4294967295),
        ("1.10", 65546),
        ("0.64512", 64512),
        ("65535.65535", 4294967295),
        ("007", 7),
        ("0", None),
        ("0.0", None),
        ("4294967296", None),
        ("65536.1", None),
        ("1.65536", None),
        ("1.2.3", None),
        (".1", None),
        ("1.", None),
        ("+1", None),
        (" 1", None),
        ("1\n", None),
        ("٣", None),
        ("", None),
        ("1" * 5000, None),
        ("AS64512", None),
    ],
)
def test_texts_are_numbers_as_upstream_reads_them(text: str, expected: int | None) -> None:
    """The dotted notation has the upper and the lower 16 bits; AS 0 cannot be used."""
    assert parse_as_number(text) == expected
    assert (as_number_fault(text) is None) == (expected is not None)


def decoded(type_: type[Resource], spec: object) -> tuple[object, list[str]]:
    """Return the spec of a document, and the mistakes in it."""
    metadata = {"name": "default", "labels": {"asNumber": "64512", "prefix": "1"}}
    document = {
        "apiVersion": type_.api_version, "kind": type_.kind, "metadata": metadata, "spec": spec,
    }  # fmt: skip
    result = decode_object(document, type_)
    findings = [f"{format_path(each.path)}: {each.message}" for each in result.findings]
    if result.value is not None:
        assert result.value.labels == metadata["labels"]
    return getattr(result.value, "spec", None), findings


def test_all_objects_of_bgp_have_texts() -> None:
    """They are stored as numbers, so that applying the other spelling changes nothing."""
    for text, number in (("64512", 64512), ("1.10", 65546)):
        for type_, spec, expected in (
            (BGPConfiguration, {"asNumber": text}, {"asNumber": number}),
            (
                BGPPeer,
                {"peerIP": "192.0.2.1", "asNumber": text, "localASNumber": text},
                {"peerIP": "192.0.2.1", "asNumber": number, "localASNumber": number},
            ),
            (
                BGPFilter,
                {
                    "importV4": [
                        {
                            "action": "Accept",
                            "asPathPrefix": [text, 5],
                            "operations": [{"prependASPath": {"prefix": [text]}}],
                        }
                    ]
                },
                {
                    "importV4": [
                        {
                            "action": "Accept",
                            "asPathPrefix": [number, 5],
                            "operations": [{"prependASPath": {"prefix": [number]}}],
                        }
                    ]
                },
            ),
        ):
            assert decoded(type_, spec) == decoded(type_, expected)
            assert decoded(type_, spec)[1] == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.2.3", 'expected an AS number, found "1.2.3"'),
        ("65536.1", 'expected an AS number, found "65536.1"'),
        (1.1, "expected an AS number, found 1.1"),
        (0, "expected an AS number from 1 to 4294967295, found 0"),
    ],
)
def test_other_values_are_mistakes(value: object, message: str) -> None:
    """A number with a point and without quotes is another number to YAML."""
    assert decoded(BGPPeer, {"peerIP": "192.0.2.1", "asNumber": value}) == (
        None,
        [f"spec.asNumber: {message}"],
    )
