"""Quantities, and the resources of a container."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.api.containers import Container, ResourceRequirements
from kubenetlab.api.validate.resources import validate_resources
from kubenetlab.api.values.quantity import MAX, Quantity, format_bytes, parse_quantity, rounded_up
from kubenetlab.programs.command import configure_command

POD = ("spec", "containers", 0, "resources")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64Mi", 64 << 20),
        ("1G", 10**9),
        ("1.5Gi", 3 << 29),
        ("0", 0),
        (134217728, 134217728),
        (0.5, 1),
        ("129e6", 129_000_000),
        ("129M", 129_000_000),
        ("1E", 10**18),
        ("1E3", 1000),
        ("1e-3", 1),
        ("100m", 1),
        (".5Ki", 512),
        ("1.", 1),
        ("+1k", 1000),
        ("9Ei", MAX),
    ],
)
def test_quantities_are_read_as_upstream_reads_them(text: Quantity, value: int) -> None:
    """Fractions of the smallest unit are rounded up; 1E is a suffix, 1E3 an exponent."""
    assert rounded_up(text) == value


@pytest.mark.parametrize(
    "text", ["", "64MB", "64mi", "64 Mi", "Mi", "1KI", "0x10", "1.2.3", "1e", "--1", "1K", "\u0661"]
)
def test_text_that_is_not_a_quantity_is_rejected(text: str) -> None:
    """Upper-case K and two-letter units of other notations are the common mistakes."""
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


@given(st.integers(0, 2**52), st.sampled_from(["", "Ki", "Mi"]))
def test_a_quantity_scales_with_its_suffix(number: int, suffix: str) -> None:
    """For any number."""
    assert parse_quantity(f"{number}{suffix}") == Fraction(number) * 1024 ** ["", "Ki", "Mi"].index(
        suffix
    )
    assert rounded_up(f"{number}m") == math.ceil(Fraction(number, 1000))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (64 << 20, "64Mi"),
        (1 << 30, "1Gi"),
        (1536 << 20, "1536Mi"),
        (1000, "1000 bytes"),
        (0, "0 bytes"),
    ],
)
def test_bytes_are_shown_in_a_unit_without_a_fraction(amount: int, text: str) -> None:
    """In the notation of manifests."""
    assert format_bytes(amount) == text


@pytest.mark.parametrize(
    ("limits", "requests", "path", "message"),
    [
        (
            {"memory": "64MB"},
            {},
            ("limits", "memory"),
            "expected a quantity (a number, and perhaps one of Ki Mi Gi Ti Pi Ei",
        ),
        (
            {"memory": "-1Mi"},
            {},
            ("limits", "memory"),
            "must be greater than or equal to 0, found -1Mi",
        ),
        (
            {"memory": "1Mi"},
            {"memory": "1.5Mi"},
            ("requests", "memory"),
            "must be less than or equal to the memory limit of 1Mi, found 1.5Mi",
        ),
        (
            {"storage": "1Mi"},
            {},
            ("limits", "storage"),
            "must be a standard resource for containers",
        ),
        (
            {},
            {"example.com/gpu": 1},
            ("limits",),
            "required for example.com/gpu, which cannot be overcommitted",
        ),
        (
            {"example.com/gpu": "500m"},
            {},
            ("limits", "example.com/gpu"),
            "must be an integer, found 500m",
        ),
        (
            {"memory": "100m"},
            {},
            ("limits", "memory"),
            'fractional byte value "100m" is invalid, must be an integer',
        ),
    ],
)
def test_resources_are_validated(
    limits: dict[str, Quantity], requests: dict[str, Quantity], path: tuple[str, ...], message: str
) -> None:
    """Each problem is at its field; a fraction of a byte is a warning, as upstream."""
    (finding,) = validate_resources(ResourceRequirements(limits=limits, requests=requests), POD)
    assert finding.path == (*POD, *path)
    assert finding.message.startswith(message)
    assert finding.is_warning == ("fractional" in message)


def test_valid_resources_are_accepted() -> None:
    """Containers may limit every kind of resource."""
    limits: dict[str, Quantity] = {
        "cpu": 1,
        "memory": "1Gi",
        "ephemeral-storage": "2G",
        "hugepages-2Mi": "4Mi",
        "example.com/gpu": "2",
    }
    assert not list(
        validate_resources(
            ResourceRequirements(limits=limits, requests={"cpu": "500m", "memory": "1Gi"}), POD
        )
    )


@pytest.mark.parametrize(
    ("resources", "limit"),
    [
        (None, None),
        (ResourceRequirements(requests={"memory": "1Mi"}), None),
        (ResourceRequirements({"memory": 0}), None),
        (ResourceRequirements({"memory": "64Mi"}), 64 << 20),
    ],
)
def test_a_real_command_is_started_with_its_memory_limit(
    resources: ResourceRequirements | None, limit: int | None
) -> None:
    """Neither a request nor a limit of 0 limits its memory."""
    container = Container("main", command=("true",), resources=resources)
    assert configure_command(container, 30).options.get("memory_limit") == limit
