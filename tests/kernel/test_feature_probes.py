"""Feature probes and the cache of their results."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kubenetlab.datapath import modes
from kubenetlab.kernel.features.doctor import KERNEL, check_machine
from kubenetlab.kernel.features.feature_probes import PROBES
from kubenetlab.kernel.features.probing import FeatureProbe, run_probes

CACHE = Path("/run/kubenetlab/doctor.json")


def counting_probe(name: str, fault: str = "") -> FeatureProbe:
    """Return a probe that counts its runs in a file."""

    def run() -> None:
        with Path("/run", name).open("a") as file:
            file.write("x")
        if fault:
            raise OSError(fault)

    return FeatureProbe(name, run, "a test")


def run_count(name: str) -> int:
    return len(Path("/run", name).read_text())


def test_a_successful_probe_is_run_once() -> None:
    """A failed probe is run again each time, since its cause may be gone; `again` runs all."""
    probes = [counting_probe("good"), counting_probe("bad", "it is broken")]
    for _ in range(3):
        assert [outcome.fault for outcome in run_probes(probes, CACHE)] == ["", "it is broken"]
    assert (run_count("good"), run_count("bad")) == (1, 3)
    run_probes(probes, CACHE, again=True)
    assert (run_count("good"), run_count("bad")) == (2, 4)


def test_a_probe_of_files_is_run_each_time() -> None:
    """A range of /etc/subuid can be removed without a reboot."""
    probes = [counting_probe("boot"), counting_probe("file")._replace(is_cached=False)]
    for _ in range(3):
        run_probes(probes, CACHE)
    assert (run_count("boot"), run_count("file")) == (1, 3)


def test_a_probe_whose_program_was_removed_is_run_again() -> None:
    """The program of the kernel feature ipset can be uninstalled without a reboot."""
    folder, path = Path("/run/bin"), os.environ["PATH"]
    folder.mkdir()
    program = folder / "sets"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{path}"  # of this test's own process
    missing = counting_probe("needs-sets", "the program sets is not installed")
    probe = counting_probe("needs-sets")._replace(programs=("sets",))
    for _ in range(2):
        assert run_probes([probe], CACHE)[0].fault == ""
    assert run_count("needs-sets") == 1
    program.unlink()
    (outcome,) = run_probes([missing._replace(programs=("sets",))], CACHE)
    assert outcome.fault == "the program sets is not installed"
    assert json.loads(CACHE.read_text())["worked"] == []


def test_the_cache_is_valid_for_one_boot_and_one_caller() -> None:
    """After a reboot, for another user or with fewer capabilities, all probes are run again.

    They are also run again if the file is damaged.
    """
    probes = [counting_probe("good")]
    run_probes(probes, CACHE)
    record = json.loads(CACHE.read_text())
    for text in (
        json.dumps({**record, "asker": "another boot"}),
        "{",
        json.dumps({"worked": ["good"]}),
    ):
        CACHE.write_text(text)
        before = run_count("good")
        run_probes(probes, CACHE)
        assert run_count("good") == before + 1
        assert json.loads(CACHE.read_text()) == record


def test_probes_work_without_a_writable_cache() -> None:
    """Results are not cached then."""
    probes = [counting_probe("good")]
    for _ in range(2):
        assert run_probes(probes, Path("/proc/no/doctor.json"))[0].fault == ""
    assert run_count("good") == 2


def test_every_feature_that_a_mode_needs_has_a_probe() -> None:
    """They have the same name. Labs cannot do without the features of every mode."""
    probes = {probe.name: probe for probe in PROBES}
    all_needs = [
        modes.load(family, name, {}).needs
        for family in modes.FAMILIES
        for name in modes.known(family)
    ]
    assert {feature for needs in all_needs for feature in needs.all_features} <= set(probes)
    for needs in all_needs:
        assert not any(probes[feature].effect_if_missing for feature in needs.features)
        assert all(probes[feature].effect_if_missing for feature in needs.own_features)


def test_doctor_finds_nothing_missing_here() -> None:
    """As root in new namespaces all probes are run, and a lab can be created."""
    results = check_machine(CACHE)
    assert [result for result in results if result.state == "missing"] == []
    assert {result.name for result in results if result.group == KERNEL} == {
        *(probe.name for probe in PROBES),
        "br_netfilter",
    }
