"""Labs of a test run: kept between tests, reset by differences, removed at the end."""

from __future__ import annotations

import secrets
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Final

from kubenetlab.errors import KubenetlabError
from kubenetlab.library.arguments import Paths
from kubenetlab.library.lab import Lab
from kubenetlab.library.lab_options import LabOptions, from_arguments
from kubenetlab.library.lab_warning import LabWarning
from kubenetlab.library.process import remove_at_end
from kubenetlab.library.reachability import HttpResult, Reachability
from kubenetlab.library.results import PingResult

MAX_LABS: Final = 4
"""Maximum number of labs that are kept for later tests."""
_SHOWN: Final = 20
"""Maximum number of probes, and of events, in the report of a failed test."""


class PooledLab(Lab):
    """Lab of the pool; it remembers the probes of the present test."""

    options = LabOptions()
    """Manifests and settings of the lab."""

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

    def lab(self, options: LabOptions) -> PooledLab:
        """Return a lab with these options, in the state after `up`."""
        if (kept := self._kept.pop(options, None)) is not None:
            if _is_reset(kept):
                self._kept[options] = kept
                self._used.append(kept)
                return kept
            self._remove(kept)
        while len(self._kept) >= MAX_LABS:
            self._remove(self._kept.popitem(last=False)[1])
        made = self._make(options)
        if options.is_reusable:
            self._kept[options] = made
        return made

    def up(self, manifests: Paths, **settings: Any) -> PooledLab:
        """Make a lab for the present test alone, with the arguments of `Lab.up`."""
        return self._make(from_arguments(manifests, **settings))

    def _make(self, options: LabOptions) -> PooledLab:
        settings = {"name": f"lab-{secrets.token_hex(4)}", **dict(options.settings)}
        remove_at_end(settings["name"])
        lab = PooledLab.up(options.paths, text=options.text, **settings)
        lab.options = options
        self._used.append(lab)
        return lab

    def end_test(self) -> None:
        """Remove the labs that only the present test uses, and forget its probes."""
        kept = list(self._kept.values())
        used, self._used = self._used, []
        for lab in used:
            lab.probes.clear()
            if lab not in kept:
                self._remove(lab)

    def close(self) -> None:
        """Remove all labs."""
        labs = {lab.name: lab for lab in (*self._used, *self._kept.values())}
        self._used, self._kept = [], OrderedDict()
        for lab in labs.values():
            self._remove(lab)

    def _remove(self, lab: PooledLab) -> None:
        try:
            lab.down()
        except KubenetlabError as error:
            warnings.warn(f"cannot remove lab {lab.name}: {error}", LabWarning, stacklevel=2)
        else:
            remove_at_end(lab.name, is_gone=True)

    def describe_test(self) -> str:
        """Return the probes of the present test, and faults and warnings of its labs, as text."""
        return "\n".join(line for lab in self._used for line in _describe(lab))


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
