"""Options of the command line, merged into the Cluster document of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubenetlab.cli.input.manifest_warnings import warn
from kubenetlab.cli.input.manifests import Flags, read
from kubenetlab.errors import ManifestError

CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}]
"""


def cluster_file(folder: Path, text: str) -> str:
    file = folder / "cluster.yaml"
    file.write_text(CLUSTER + text)
    return str(file)


def test_an_option_replaces_a_mode_that_the_file_could_not_have(tmp_path: Path) -> None:
    """The default mode needs one segment; the mode of the command line does not."""
    file = cluster_file(tmp_path, "fabric: {topology: routed}\n")
    with pytest.raises(ManifestError, match="bridge needs all nodes on one layer-2 segment"):
        read([file])
    manifests = read([file], flags=Flags(cni="flannel"))
    assert manifests.cluster_config.networking.cni == {"type": "flannel"}


def test_mistakes_in_a_mode_of_the_file_keep_their_line(tmp_path: Path) -> None:
    file = cluster_file(tmp_path, "networking:\n  cni:\n    type: flannel\n    vni: 0\n")
    with pytest.raises(ManifestError) as caught:
        read([file], flags=Flags(nodes=3))
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.path) == (file, 7, "networking.cni.vni")


def test_warnings_about_options_of_the_command_line(tmp_path: Path) -> None:
    """An option without effect is reported once, whether a file or the command line has it."""
    mode = "cilium,clusterPoolIPv4MaskSize=26"
    (warning,) = read(None, flags=Flags(cni=mode)).loaded.warnings
    assert (warning.path, warning.message) == (
        "networking.cni.clusterPoolIPv4MaskSize",
        "has no effect with ipam: kubernetes",
    )
    file = cluster_file(
        tmp_path, "networking: {cni: {type: cilium, clusterPoolIPv4MaskSize: 26}}\n"
    )
    (warning,) = read([file], flags=Flags(nodes=3)).loaded.warnings
    assert (warning.file, warning.line) == (file, 4)


def test_no_warning_about_a_mode_that_an_option_replaces(tmp_path: Path) -> None:
    file = cluster_file(
        tmp_path, "networking: {cni: {type: cilium, clusterPoolIPv4MaskSize: 26}}\n"
    )
    assert read([file], flags=Flags(cni="flannel")).loaded.warnings == ()


@pytest.mark.parametrize(
    ("before", "flags", "kept"),
    [
        ({"policyEngine": "nftables"}, Flags(cni="flannel"), "nftables"),
        ({"policyEngine": {"type": "nftables"}}, Flags(cni="calico"), "nftables"),
        ({"policyEngine": "none", "cni": {"type": "flannel"}}, Flags(cni="bridge"), "none"),
        ({"policyEngine": "nftables"}, Flags(cni="flannel", policy="nftables"), ""),
        ({"policyEngine": "iptables"}, Flags(cni="calico"), ""),
        ({"policyEngine": "nftables", "cni": "flannel"}, Flags(cni="flannel"), ""),
        ({"policyEngine": "nftables"}, Flags(nodes=2), ""),
        ({}, Flags(cni="flannel"), ""),
    ],
)
def test_a_policy_engine_that_a_new_cni_mode_keeps_is_noted(
    capsys: pytest.CaptureFixture[str], before: dict[str, object], flags: Flags, kept: str
) -> None:
    """The document of the running lab selects it, and the new mode has another default."""
    base = {"apiVersion": "kubenetlab.dev/v1alpha1", "kind": "Cluster", "networking": before}
    manifests = read(None, base=base, flags=flags)
    assert manifests.kept_engine == kept
    warn(manifests)
    errors = capsys.readouterr().err
    assert ("the policy engine" in errors) == bool(kept)
    assert f"the policy engine {kept}, selected before, is kept" in errors or not kept


def test_a_policy_engine_of_a_file_is_not_noted(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {policyEngine: nftables}\n"
    )
    assert read([str(file)], base={}, flags=Flags(cni="flannel")).kept_engine == ""


@pytest.mark.parametrize(
    ("before", "cni", "engine"),
    [("cilium", "calico", "iptables"), ("cilium", "flannel,backend=host-gw", "nftables")],
)
def test_the_refusal_of_a_cni_mode_names_the_option_to_add(
    tmp_path: Path, before: str, cni: str, engine: str
) -> None:
    """The policy engine was selected in the running lab, or in the file."""
    networking = {"cni": before, "policyEngine": "ebpf"}
    base = {"apiVersion": "kubenetlab.dev/v1alpha1", "kind": "Cluster", "networking": networking}
    with pytest.raises(ManifestError) as caught:
        read(None, base=base, flags=Flags(cni=cni))
    (problem,) = caught.value.problems
    mode = cni.partition(",")[0]
    assert problem.file == f"--cni {mode}"
    assert problem.hints[-1] == (
        f"ebpf was selected before: add `--policy {engine}` to `--cni {mode}`"
    )
    file = cluster_file(tmp_path, f"networking:\n  cni: {before}\n  policyEngine: ebpf\n")
    with pytest.raises(ManifestError) as caught:
        read([file], flags=Flags(cni=cni))
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (file, 6)
    assert problem.hints[-1] == f"add `--policy {engine}` to `--cni {mode}`"


def test_other_problems_of_modes_name_no_option_to_add() -> None:
    """The policy engine of the option itself, and modes that do not exist."""
    for networking, flags in (
        ({"cni": "cilium"}, Flags(cni="calico", policy="ebpf")),
        ({"cni": "cilium", "policyEngine": "nothing"}, Flags(cni="calico")),
        ({"cni": "cilium", "policyEngine": "ebpf"}, Flags(cni="nothing")),
    ):
        base = {"apiVersion": "kubenetlab.dev/v1alpha1", "kind": "Cluster"}
        with pytest.raises(ManifestError) as caught:
            read(None, base={**base, "networking": networking}, flags=flags)
        assert "add `--policy" not in str(caught.value)
