"""Lines of `doctor` about modes, for machines with different features."""

from __future__ import annotations

import pytest

from kubenetlab.cli import doctor
from kubenetlab.datapath import modes
from kubenetlab.kernel.features import detection
from kubenetlab.kernel.features.doctor import CheckResult
from kubenetlab.kernel.processes import permissions
from kubenetlab.lab import requirements


def results(*missing: str) -> dict[str, CheckResult]:
    """Return the result for each mode on a machine that lacks some kernel features."""
    features = {
        feature
        for family in modes.FAMILIES
        for name in modes.known(family)
        for feature in modes.load(family, name, {}).needs.all_features
    }
    machine = [CheckResult("Kernel", name, "ok", "") for name in sorted(features - set(missing))]
    return {result.name: result for result in doctor._modes(machine)}


@pytest.fixture(autouse=True)
def complete_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have every program and root."""
    monkeypatch.setattr(detection, "has_program", lambda program: True)
    monkeypatch.setattr(permissions, "is_root", lambda: True)
    monkeypatch.setattr(requirements, "plugin_path", lambda name, directories: f"/cni/{name}")


def test_a_feature_of_some_options_does_not_make_a_mode_unavailable() -> None:
    """The line of the mode says what is missing."""
    shown = results("ESP", "wireguard")
    assert shown["cni weave"].state == shown["cni flannel"].state == "ok"
    assert shown["cni weave"].detail.endswith("Options that need ESP are not available.")
    assert shown["cni flannel"].detail.endswith("Options that need wireguard are not available.")


def test_a_feature_of_the_default_options_makes_a_mode_unavailable() -> None:
    shown = results("vxlan")
    assert shown["cni weave"].state == "optional"
    assert shown["cni weave"].detail == "missing kernel features: vxlan"
    assert shown["cni calico"].state == "ok"


@pytest.mark.parametrize(
    ("family", "name"), [(f, n) for f in modes.FAMILIES for n in modes.known(f)]
)
def test_a_missing_program_makes_a_mode_unavailable(
    family: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names each program that the default options need, with its package."""
    title, needs = f"{family} {name}", modes.load(family, name, {}).requirements
    assert results()[title].state == "ok"
    for program in needs.programs:
        monkeypatch.setattr(detection, "has_program", lambda asked, gone=program: asked != gone)
        shown = results()[title]
        assert shown.state == "optional"
        assert f"{program} (apt-get install {detection.PACKAGES[program]})" in shown.detail


def test_missing_plugins_make_the_mode_conflist_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line names those that the default list calls, their directories and the package."""
    monkeypatch.setattr(
        requirements, "plugin_path", lambda name, directories: None if name != "bridge" else name
    )
    shown = results()["cni conflist"]
    assert shown.state == "optional"
    assert shown.detail == (
        "no CNI plugins portmap, host-local in /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni "
        "(apt-get install containernetworking-plugins), for cni conflist"
    )
    assert results()["cni bridge"].state == "ok"
