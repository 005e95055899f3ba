"""Labs of a test run: kept between tests, reset by differences, removed at the end."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

from kubenetlab.errors import KubenetlabError
from kubenetlab.library.arguments import Paths
from kubenetlab.library.creation import LabCreation
from kubenetlab.library.lab import Lab
from kubenetlab.library.lab_options import LabOptions, from_arguments
from kubenetlab.library.lab_removals import LabRemovals
from kubenetlab.library.labs_ahead import ExpectedLab, LabsAhead, begin
from kubenetlab.library.process import Surroundings
from kubenetlab.library.reachability import HttpResult, Reachability
from kubenetlab.library.results import PingResult

MAX_LABS: Final = 4
"""Maximum number of labs that are kept for later tests."""
_OF_EACH_TEST: Final = "PYTEST_CURRENT_TEST"
"""Variable in which pytest names the present test, and its phase."""
_SHOWN: Final = 20
"""Maximum number of probes, and of events, in the report of a failed test."""


class PooledLab(Lab):
    """Lab of the pool; it remembers the probes of the present test."""

    options = LabOptions()
    """Manifests and settings of the lab."""

    @classmethod
    def made_by(cls, creation: LabCreation) -> Self:
        """Return the lab that a command makes, when it is complete. Raises as `up` does."""
        return cls._made_by(creation)

    @property
    def probes(self) -> deque[PingResult]:
        """The latest probes of the present test."""
        probes: deque[PingResult] = self.__dict__.setdefault("_probes", deque(maxlen=_SHOWN))
        return probes

    def ping(self, *arguments: Any, **settings: Any) -> PingResult:
        """Send one probe; see `Lab.ping`."""
        result = super().ping(*arguments, **settings)
        self.probes.append(result)
        return result


class LabPool:
    """Labs of a test run, by their options."""

    def __init__(self) -> None:
        self._kept: OrderedDict[LabOptions, PooledLab] = OrderedDict()
        """Labs for later tests; the one that was used last is at the end."""
        self._used: list[PooledLab] = []
        """Labs of the present test."""
        self._removals = LabRemovals()
        self._ahead = LabsAhead(self._removals.start)

    def lab(self, options: LabOptions) -> PooledLab:
        """Return a lab with these options, in the state after `up`."""
        if (kept := self._kept.pop(options, None)) is not None:
            if _is_reset(kept):
                self._kept[options] = kept
                self._used.append(kept)
                return kept
            self._removals.start(kept.name)
        while len(self._kept) >= MAX_LABS:
            self._removals.start(self._kept.popitem(last=False)[1].name)
        made = self._made_ahead(options) or self._make(options)
        if options.is_reusable:
            self._kept[options] = made
        return made

    def up(self, manifests: Paths, **settings: Any) -> PooledLab:
        """Make a lab for the present test alone, with the arguments of `Lab.up`."""
        return self._make(from_arguments(manifests, **settings))

    def make_ahead(self, labs: Sequence[ExpectedLab]) -> None:
        """Start to make the labs of the next tests, and drop those that they do not use."""
        self._ahead.make(
            lab
            for index, lab in enumerate(labs)
            if lab.options not in self._kept
            and not (lab.options.is_reusable and lab in labs[:index])
        )

    def _made_ahead(self, options: LabOptions) -> PooledLab | None:
        """Return a lab that was made ahead, if the present test would get the same one now."""
        creation = self._ahead.take(ExpectedLab(options, present_surroundings()))
        try:
            return None if creation is None else self._take(options, creation)
        except KubenetlabError:
            self._ahead.record_failure()
            return None  # the lab is made again, which reports the error if there still is one

    def _make(self, options: LabOptions) -> PooledLab:
        return self._take(options, begin(options))

    def _take(self, options: LabOptions, creation: LabCreation) -> PooledLab:
        """Return a lab for the present test when it is complete."""
        lab = PooledLab.made_by(creation)
        lab.options = options
        self._used.append(lab)
        return lab

    def end_test(self) -> None:
        """Remove the labs that only the present test uses, and forget its probes."""
        kept = list(self._kept.values())
        used, self._used = self._used, []
        for lab in used:
            lab.probes.clear()
        removed = {lab.name: lab for lab in used if lab not in kept}
        for name in removed:
            self._removals.start(name)
        for name, lab in removed.items():
            if lab.options.is_named:
                self._removals.wait_for(name)

    def close(self) -> bool:
        """Remove all labs. Return False if one is left."""
        self.make_ahead(())
        labs = {lab.name: lab for lab in (*self._used, *self._kept.values())}
        self._used, self._kept = [], OrderedDict()
        for lab in labs:
            self._removals.start(lab)
        return not self._removals.finish()

    def describe_test(self) -> str:
        """Return the probes of the present test, and faults and warnings of its labs, as text."""
        return "\n".join(line for lab in self._used for line in _describe(lab))


def present_surroundings() -> Surroundings:
    """Return the working directory and the environment, without the variable of each test."""
    directory, environment = Surroundings.present()
    environment.pop(_OF_EACH_TEST, None)
    return Surroundings(directory, environment)


def _is_reset(lab: PooledLab) -> bool:
    """Reset a lab; return False if it is not as after `up`."""
    try:
        lab.reset()
    except KubenetlabError:
        return False
    return True


def _describe(lab: PooledLab) -> Iterator[str]:
    """Yield the lines about a lab for the report of a failed test."""
    yield f"lab {lab.name}: {lab.options}"
    if lab.probes:
        yield "probes of this test:"
    for ping in lab.probes:
        yield f"  {HttpResult(ping) if ping.http else Reachability(ping)}"
        for title in (*ping.unenforced, *ping.duplicates):
            yield f"    not enforced by the lab, or ambiguous: {title}"
    try:
        faults = lab.get_all("faults")
        events = [event for event in lab.events() if event.type == "Warning"]
    except KubenetlabError as error:
        yield f"the lab does not answer: {error}"
        return
    for fault in faults:
        yield f"fault {fault['metadata']['name']}: {fault['spec']['summary']}"
    for event in events[-_SHOWN:]:
        yield f"event: {event}"
