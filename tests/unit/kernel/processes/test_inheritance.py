"""Inherited attributes that harm a lab."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import pytest

from kubenetlab.kernel.processes.inheritance import inherited_problems

Inherit = Callable[..., None]


@pytest.fixture
def inherit(monkeypatch: pytest.MonkeyPatch) -> Inherit:
    """Fake the inherited hard limits, nice value, scheduling policy and CPU affinity."""

    def inherit(
        limits: dict[int, int] | None = None,
        nice: int = 0,
        policy: int = os.SCHED_OTHER,
        processors: int = 2,
    ) -> None:
        hard = limits or {}
        monkeypatch.setattr(
            resource, "getrlimit", lambda limit: (0, hard.get(limit, resource.RLIM_INFINITY))
        )
        monkeypatch.setattr(os, "nice", lambda _: nice)
        monkeypatch.setattr(os, "sched_getscheduler", lambda _: policy)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
        monkeypatch.setattr(os, "cpu_count", lambda: 2)

    return inherit


def names(*, is_root: bool = True) -> list[str]:
    return [entry.name for entry in inherited_problems(is_root=is_root)]


def test_default_attributes_harm_nothing(inherit: Inherit) -> None:
    """Neither do values that are just sufficient."""
    inherit()
    assert names(is_root=False) == []
    inherit(
        {
            resource.RLIMIT_NOFILE: 4096,
            resource.RLIMIT_MEMLOCK: 8 << 20,
            resource.RLIMIT_NPROC: 1024,
        },
        nice=4,
    )
    assert names(is_root=False) == []


@pytest.mark.parametrize(
    ("limit", "value", "name"),
    [
        (resource.RLIMIT_NOFILE, 4095, "nofile"),
        (resource.RLIMIT_MEMLOCK, 64 << 10, "memlock"),
        (resource.RLIMIT_AS, 1 << 30, "address space"),
        (resource.RLIMIT_DATA, 1 << 20, "data"),
        (resource.RLIMIT_FSIZE, 0, "file size"),
        (resource.RLIMIT_STACK, 1 << 19, "stack"),
        (resource.RLIMIT_CPU, 3600, "cpu time"),
    ],
)
def test_a_low_hard_limit_is_a_problem(inherit: Inherit, limit: int, value: int, name: str) -> None:
    """A limit of processor time is one whatever its value."""
    inherit({limit: value})
    assert names() == [name]


def test_a_low_nproc_limit_harms_ordinary_users_only(inherit: Inherit) -> None:
    """The kernel exempts root."""
    inherit({resource.RLIMIT_NPROC: 100})
    assert names(is_root=True) == []
    assert names(is_root=False) == ["nproc"]


@pytest.mark.parametrize(
    "policy", [os.SCHED_IDLE, os.SCHED_BATCH, os.SCHED_FIFO, os.SCHED_RR | os.SCHED_RESET_ON_FORK]
)
def test_other_scheduling_policies_are_a_problem(inherit: Inherit, policy: int) -> None:
    """They are one even if children do not inherit them."""
    inherit(policy=policy)
    assert names() == ["scheduling"]


def test_a_high_nice_value_and_few_processors_are_problems(inherit: Inherit) -> None:
    """Both are reported."""
    inherit(nice=5, processors=1)
    assert names() == ["nice", "processors"]
