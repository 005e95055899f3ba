"""Hindrances: which inherited attributes harm a lab, by plain values."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

import pytest

from kubenetlab.kernel.processes.inheritance import hindrances

Inherit = Callable[..., None]


@pytest.fixture
def inherit(monkeypatch: pytest.MonkeyPatch) -> Inherit:
    """Set what this process seems to have inherited: hard limits by their numbers, nice value and policy."""

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
    return [entry.name for entry in hindrances(is_root=is_root)]


def test_nothing_harms_by_default(inherit: Inherit) -> None:
    """Unlimited, nice 0, the normal policy, all processors; or just enough of each."""
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
def test_a_low_hard_limit(inherit: Inherit, limit: int, value: int, name: str) -> None:
    """Each is named alone; a limit of processor time harms whatever its value."""
    inherit({limit: value})
    assert names() == [name]


def test_the_number_of_processes_limits_users_alone(inherit: Inherit) -> None:
    """The kernel lets root have more."""
    inherit({resource.RLIMIT_NPROC: 100})
    assert names(is_root=True) == []
    assert names(is_root=False) == ["nproc"]


@pytest.mark.parametrize(
    "policy", [os.SCHED_IDLE, os.SCHED_BATCH, os.SCHED_FIFO, os.SCHED_RR | os.SCHED_RESET_ON_FORK]
)
def test_policies_other_than_the_normal_one(inherit: Inherit, policy: int) -> None:
    """Also where children would not inherit it."""
    inherit(policy=policy)
    assert names() == ["scheduling"]


def test_priority_and_processors(inherit: Inherit) -> None:
    """A high nice value, and fewer processors than the machine has."""
    inherit(nice=5, processors=1)
    assert names() == ["nice", "processors"]
