"""Labs that are made for the next tests: those that are used, and those that are dropped."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from kubenetlab.errors import LabError
from kubenetlab.library import labs_ahead
from kubenetlab.library.lab_options import LabOptions
from kubenetlab.library.labs_ahead import MAX_UNUSED, ExpectedLab, LabsAhead
from kubenetlab.library.process import Surroundings

HERE = Surroundings(str(Path.cwd()), {})
A, B, C = (ExpectedLab(LabOptions((path,)), HERE) for path in ("a", "b", "c"))


class FakeCreation:
    """Creation of a lab, which is stopped or not."""

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True


class Recorded:
    """Labs ahead, whose creations and removals are recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.creations: dict[str, FakeCreation] = {}
        self.removed: list[str] = []
        self.ahead = LabsAhead(self.removed.append)
        self._numbers = count(1)
        monkeypatch.setattr(labs_ahead, "begin", self._begin)

    def _begin(self, options: LabOptions, surroundings: Surroundings) -> FakeCreation:
        if "missing" in options.paths:
            raise LabError("there is no such file")
        name = f"{options.paths[0]}{next(self._numbers)}"
        self.creations[name] = FakeCreation(name)
        return self.creations[name]

    def take(self, lab: ExpectedLab) -> str | None:
        """Return the name of the lab that a test gets, if one was made ahead."""
        taken = cast("Any", self.ahead.take(lab))
        return taken and cast("str", taken.lab)

    @property
    def stopped(self) -> list[str]:
        return [name for name, creation in self.creations.items() if creation.is_stopped]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


def test_each_test_gets_the_lab_that_was_begun_first(recorded: Recorded) -> None:
    recorded.ahead.make([A, A])
    assert recorded.take(A) == "a1"
    recorded.ahead.make([A, B])
    assert [*recorded.creations] == ["a1", "a2", "b3"]
    assert [recorded.take(A), recorded.take(B), recorded.take(B)] == ["a2", "b3", None]
    assert recorded.removed == []


def test_a_lab_that_no_test_expects_is_stopped_and_removed(recorded: Recorded) -> None:
    recorded.ahead.make([A, B])
    recorded.ahead.make([B, C])
    assert recorded.stopped == recorded.removed == ["a1"]
    recorded.ahead.make([])
    assert recorded.removed == ["a1", "b2", "c3"]


def test_a_lab_with_other_surroundings_is_not_taken(recorded: Recorded) -> None:
    recorded.ahead.make([A])
    elsewhere = A._replace(surroundings=Surroundings(HERE.directory, {"LANG": "C"}))
    assert recorded.take(elsewhere) is None
    assert recorded.take(A) == "a1"


@pytest.mark.parametrize("reason", ["unused", "refused", "failed"])
def test_no_more_labs_are_begun_after_several_that_were_of_no_use(
    recorded: Recorded, reason: str
) -> None:
    for _ in range(MAX_UNUSED):
        if reason == "refused":
            recorded.ahead.make([ExpectedLab(LabOptions(("missing",)), HERE)])
        else:
            recorded.ahead.make([A])
            if reason == "failed":
                assert recorded.take(A)
                recorded.ahead.record_failure()
            recorded.ahead.make([])
    begun = len(recorded.creations)
    recorded.ahead.make([B])
    assert len(recorded.creations) == begun
    assert recorded.take(B) is None
