"""Labs that are made for the next tests while a test runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from kubenetlab.library.arguments import up_arguments
from kubenetlab.library.creation import LabCreation, new_name
from kubenetlab.library.lab_options import MISTAKES, LabOptions
from kubenetlab.library.process import Surroundings

MAX_UNUSED: Final = 4
"""Number of labs made ahead that could not be used, after which none are made ahead any more."""


class ExpectedLab(NamedTuple):
    """Lab that a later test is expected to ask for."""

    options: LabOptions
    surroundings: Surroundings
    """Working directory and environment of the test."""


class LabsAhead:
    """Labs that are being made for the next tests, in the order of these tests."""

    def __init__(self, remove: Callable[[str], None]) -> None:
        """Begin without labs. `remove` starts to remove a lab."""
        self._remove = remove
        self._labs: list[tuple[ExpectedLab, LabCreation]] = []
        self._unused_count = 0
        """Number of labs that were made ahead, and could not be used."""

    def make(self, expected: Iterable[ExpectedLab]) -> None:
        """Start to make the expected labs that are not being made; drop those for other tests."""
        others, self._labs = self._labs, []
        missing = []
        for lab in expected:
            if (index := _index(others, lab)) is not None:
                self._labs.append(others.pop(index))
            else:
                missing.append(lab)
        for _, creation in others:
            self._drop(creation)
        for lab in missing:
            if self._unused_count < MAX_UNUSED:
                self._begin(lab)

    def take(self, lab: ExpectedLab) -> LabCreation | None:
        """Return a lab that was made as expected; None if there is none."""
        index = _index(self._labs, lab)
        return None if index is None else self._labs.pop(index)[1]

    def record_failure(self) -> None:
        """Count a lab that was taken, and could not be made."""
        self._unused_count += 1

    def _begin(self, lab: ExpectedLab) -> None:
        try:
            self._labs.append((lab, begin(lab.options, lab.surroundings)))
        except MISTAKES:  # the test reports it
            self._unused_count += 1

    def _drop(self, creation: LabCreation) -> None:
        self._unused_count += 1
        creation.stop()
        self._remove(creation.lab)


def begin(options: LabOptions, surroundings: Surroundings | None = None) -> LabCreation:
    """Start to make a lab, which is removed when this process ends.

    surroundings: by default the present ones. Raises KubenetlabError or OSError.
    """
    settings = dict(options.settings)
    name = settings.pop("name", None) or new_name()
    arguments = up_arguments(options.paths, options.text, **settings)
    return LabCreation(
        name, arguments, options.text, surroundings=surroundings, is_removed_at_end=True
    )


def _index(labs: list[tuple[ExpectedLab, LabCreation]], lab: ExpectedLab) -> int | None:
    """Return the place of the first lab that is as expected."""
    return next((index for index, (each, _) in enumerate(labs) if each == lab), None)
