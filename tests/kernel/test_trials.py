"""What the kernel can do is found out by doing it, once a boot."""

from __future__ import annotations

import json
from pathlib import Path

from kubenetlab.datapath import modes
from kubenetlab.kernel.features.doctor import KERNEL, examine
from kubenetlab.kernel.features.feature_probes import TRIALS
from kubenetlab.kernel.features.probing import FeatureProbe, outcomes

KEPT = Path("/run/kubenetlab/doctor.json")


def counted(name: str, fault: str = "") -> FeatureProbe:
    """A trial that leaves a mark each time it is made."""

    def try_it() -> None:
        with Path("/run", name).open("a") as marks:
            marks.write("x")
        if fault:
            raise OSError(fault)

    return FeatureProbe(name, try_it, "a test")


def times(name: str) -> int:
    return len(Path("/run", name).read_text())


def test_what_worked_is_tried_once() -> None:
    """What failed is tried each time, for somebody may have mended it; with `again` all is."""
    trials = [counted("good"), counted("bad", "it is broken")]
    for _ in range(3):
        assert [outcome.fault for outcome in outcomes(trials, KEPT)] == ["", "it is broken"]
    assert (times("good"), times("bad")) == (1, 3)
    outcomes(trials, KEPT, again=True)
    assert (times("good"), times("bad")) == (2, 4)


def test_what_files_decide_is_tried_each_time() -> None:
    """A range of users can be taken away without a reboot."""
    trials = [counted("boot"), counted("file")._replace(is_cached=False)]
    for _ in range(3):
        outcomes(trials, KEPT)
    assert (times("boot"), times("file")) == (1, 3)


def test_it_holds_for_one_boot_and_one_set_of_rights() -> None:
    """After a reboot, for another user, or with fewer capabilities, all is tried again; so it is when the file is broken."""
    trials = [counted("good")]
    outcomes(trials, KEPT)
    record = json.loads(KEPT.read_text())
    for text in (
        json.dumps({**record, "asker": "another boot"}),
        "{",
        json.dumps({"worked": ["good"]}),
    ):
        KEPT.write_text(text)
        before = times("good")
        outcomes(trials, KEPT)
        assert times("good") == before + 1
        assert json.loads(KEPT.read_text()) == record


def test_it_can_be_asked_where_nothing_can_be_written() -> None:
    """Then nothing is kept."""
    trials = [counted("good")]
    for _ in range(2):
        assert outcomes(trials, Path("/proc/no/doctor.json"))[0].fault == ""
    assert times("good") == 2


def test_whatever_a_mode_needs_is_tried() -> None:
    """By the same name."""
    names = {trial.name for trial in TRIALS}
    needed = {
        feature
        for family in modes.FAMILIES
        for name in modes.known(family)
        for feature in modes.load(family, name, {}).needs.features
    }
    assert needed <= names


def test_this_machine_is_examined() -> None:
    """As root in new namespaces everything is tried for real, and a lab can be made."""
    found = examine(KEPT)
    assert [finding for finding in found if finding.state == "missing"] == []
    assert {finding.name for finding in found if finding.group == KERNEL} == {
        *(trial.name for trial in TRIALS),
        "br_netfilter",
    }
