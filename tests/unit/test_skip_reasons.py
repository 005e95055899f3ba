"""Reasons for which tests of labs and of the kernel are skipped."""

from __future__ import annotations

import os

import pytest

from kubenetlab.kernel import syscalls
from tests.conftest import NEEDS_ROOT
from tests.kernel import conftest as kernel_tests
from tests.labs import conftest as lab_tests
from tests.labs.lab import CommandResult


@pytest.mark.parametrize(
    ("uid", "status", "reason"),
    [
        (1000, 0, NEEDS_ROOT),
        (1000, 1, NEEDS_ROOT),
        (0, 0, ""),
        (0, 1, "labs cannot be created here; `kubenetlab doctor` lists the missing requirements"),
    ],
)
def test_tests_of_labs_need_root_and_a_machine_with_labs(
    monkeypatch: pytest.MonkeyPatch, uid: int, status: int, reason: str
) -> None:
    """An ordinary user, who can create labs, is not sent to `kubenetlab doctor`."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(lab_tests, "run", lambda *_, **__: CommandResult(status, "", ""))
    assert lab_tests._skip_reason() == reason


@pytest.mark.parametrize(
    ("uid", "reason"),
    [
        (1000, NEEDS_ROOT),
        (0, "this machine lets us make no namespaces: Operation not permitted"),
    ],
)
def test_tests_of_the_kernel_need_root_and_namespaces(
    monkeypatch: pytest.MonkeyPatch, uid: int, reason: str
) -> None:
    def refuse(_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(syscalls, "unshare", refuse)
    ended = kernel_tests._run_in_namespaces(lambda: None)
    assert ended == (kernel_tests._SKIPPED, reason)
