"""Requirements of a cluster, which are checked before its lab is created."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.api.manifests.load import load_documents
from kubenetlab.api.text.documents import read_documents
from kubenetlab.cli import with_system_directories
from kubenetlab.datapath.modes import Needs
from kubenetlab.kernel.features.probing import FeatureProbe
from kubenetlab.kernel.processes.permissions import (
    NEEDED,
    effective_capabilities,
    is_first_user_namespace,
    missing_capabilities,
    remedy,
)
from kubenetlab.lab import requirements
from kubenetlab.lab.requirements import (
    missing_features,
    pool_findings,
    require_modes,
    selected_modes,
    unmet_requirements,
)


def test_each_selected_mode_has_requirements() -> None:
    """A mode is titled by its family and name. A default policy engine can be replaced."""
    modes = ["cni bridge", "proxy nftables"]
    assert [title for title, _ in selected_modes(ClusterConfig())] == modes
    chosen = ClusterConfig(networking=Networking(policy_engine="nftables"))
    assert [title for title, _ in selected_modes(chosen)] == [*modes, "policy nftables"]


@pytest.mark.parametrize(
    ("needs", "is_root", "expected"),
    [
        (Needs(), False, []),
        (
            Needs(programs=("nft", "ip")),
            False,
            ["this machine lacks ip (apt-get install iproute2), for cni test"],
        ),
        (
            Needs(programs=("bird",)),
            True,
            ["this machine lacks bird (apt-get install bird2), for cni test"],
        ),
        (Needs(root="eBPF programs"), True, []),
        (
            Needs(root="eBPF programs"),
            False,
            [
                "cni test needs root of the machine (eBPF programs), "
                "which a user namespace does not give: run kubenetlab up as root (sudo)"
            ],
        ),
    ],
)
def test_an_unmet_requirement_is_an_error(needs: Needs, is_root: bool, expected: list[str]) -> None:
    """A missing program, and missing root permissions, are reported; no other mode replaces it."""
    assert (
        list(
            unmet_requirements(
                "cni test", needs, is_root=is_root, has_program=lambda program: program == "nft"
            )
        )
        == expected
    )


def test_a_missing_kernel_feature_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Optional features are probed for the selected modes; basic ones are doctor's business."""

    def refused() -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    makes = [
        FeatureProbe("special", refused, "a test", "another kernel", "labs without it"),
        FeatureProbe("basic", refused, "a test", "another kernel"),
    ]
    monkeypatch.setattr("kubenetlab.kernel.features.feature_probes.PROBES", makes)
    assert list(missing_features("proxy test", Needs(("nft",), ("basic",), ("special",)))) == [
        "proxy test needs special: Operation not supported; required: another kernel"
    ]
    assert list(missing_features("proxy test", Needs(features=("basic",)))) == []


def test_advice_names_only_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists the packages of programs that are not installed, and then the other remedies."""
    trial = FeatureProbe(
        "special",
        lambda: None,
        "a test",
        "another kernel",
        programs=("ipset", "iptables-nft-restore"),
    )
    for installed, expected in (
        ((), "sudo apt-get install ipset iptables; another kernel"),
        (("ipset",), "sudo apt-get install iptables; another kernel"),
        (("ipset", "iptables-nft-restore"), "another kernel"),
    ):
        monkeypatch.setattr(
            "kubenetlab.kernel.features.probing.has_program", installed.__contains__
        )
        assert trial.advice == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin:/usr/sbin:/sbin"),
        ("/sbin:/home/me/bin:/usr/sbin", "/sbin:/home/me/bin:/usr/sbin"),
        ("", "/bin:/usr/bin:/usr/sbin:/sbin"),
    ],
)
def test_system_directories_end_the_search_path(path: str, expected: str) -> None:
    """They follow the caller's directories, and are added only once."""
    assert with_system_directories(path) == expected


def test_features_of_a_running_lab_are_not_probed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the additional features of another mode are probed."""
    probed: list[str] = []

    def probe(title: str, needs: Needs) -> list[str]:
        probed.extend(needs.own_features)
        return []

    monkeypatch.setattr(requirements, "is_root", lambda: True)
    monkeypatch.setattr(requirements, "has_program", lambda program: True)
    monkeypatch.setattr(requirements, "missing_features", probe)
    ipvs, iptables = (
        ClusterConfig(networking=Networking(kube_proxy_mode=name)) for name in ("ipvs", "iptables")
    )
    for config, before in ((iptables, ipvs), (ipvs, ipvs)):
        require_modes(config, before)
        assert probed == []
    require_modes(ipvs, iptables)
    assert probed == ["ipset", "dummy", "ipvs"]


@pytest.mark.parametrize(
    ("cni", "spec", "found"),
    [
        (
            "{type: calico}",
            "cidr: 10.9.0.0/24, ipipMode: Always",
            "spec.ipipMode: needs the kernel feature ipip",
        ),
        (
            "{type: calico}",
            "cidr: 10.9.0.0/24, vxlanMode: CrossSubnet",
            "spec.vxlanMode: needs the kernel feature vxlan",
        ),
        ("{type: calico}", "cidr: 10.9.0.0/24", ""),
        ("{type: calico}", "cidr: 10.9.0.0/24, ipipMode: Always, disabled: true", ""),
        ("{type: calico}", "cidr: 10.9.0.0/24, ipipMode: Always, allowedUses: [Workload]", ""),
        ("{type: calico}", "cidr: 'fd00:9::/64', vxlanMode: Always", ""),
        ("{type: calico, backend: vxlan}", "cidr: 10.9.0.0/24, vxlanMode: Always", ""),
        ("bridge", "cidr: 10.9.0.0/24, ipipMode: Always", ""),
    ],
    ids=["ipip", "vxlan", "none", "disabled", "no-tunnels", "family", "known", "other-mode"],
)
def test_tunnels_of_pools_need_features(
    cni: str, spec: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool needs the features of its tunnels, unless no node gets one. The line is the field's.

    Features that the mode itself needs are reported with the mode.
    """

    def refused() -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    probes = [FeatureProbe(name, refused, "", f"modprobe {name}") for name in ("ipip", "vxlan")]
    monkeypatch.setattr("kubenetlab.kernel.features.feature_probes.PROBES", probes)
    text = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"networking: {{cni: {cni}}}\n---\napiVersion: projectcalico.org/v3\nkind: IPPool\n"
        f"metadata: {{name: pool}}\nspec:\n  {spec.replace(', ', chr(10) + '  ')}\n"
    )
    documents, _ = read_documents("pools.yaml", text.encode())
    (cluster, pool) = load_documents(documents).entries
    assert isinstance(cluster.object, ClusterConfig)
    assert isinstance(pool.object, IPPool)
    findings = [finding for _, finding in pool_findings(cluster.object, [pool.object])]
    problems = [str(pool.problem(finding)) for finding in findings]
    assert problems == (
        [
            f"pools.yaml:10  IPPool pool: {found}: Operation not supported\n"
            f"               required: modprobe {found.rpartition(' ')[2]}"
        ]
        if found
        else []
    )
    assert list(pool_findings(cluster.object, [pool.object], {"ipip", "vxlan"})) == []


def test_missing_capabilities_are_named() -> None:
    """Docker's default set contains none of the administrative capabilities."""
    everything, docker = (1 << 41) - 1, 0xA80425FB
    assert missing_capabilities(everything) == {}
    assert list(missing_capabilities(docker)) == ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]
    assert list(missing_capabilities(0)) == list(NEEDED)


def test_capabilities_and_user_namespace_are_read_from_proc(tmp_path: Path) -> None:
    """Root in a user namespace is distinguished from root of the machine."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("Name:\tx\nCapPrm:\t0\nCapEff:\t00000000a80425fb\n")
    (tmp_path / "self" / "uid_map").write_text("         0       1000          1\n")
    assert effective_capabilities(str(tmp_path)) == 0xA80425FB
    assert not is_first_user_namespace(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("user/max_user_namespaces", "0", "user.max_user_namespaces is 0: sudo sysctl -w"),
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone is 0: sudo sysctl -w",
        ),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "0",
            "run as root (sudo); in a container: docker run --privileged",
        ),
    ],
)
def test_the_setting_that_forbids_user_namespaces_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, words: str
) -> None:
    """Each of the settings that distributions use has a remedy of its own."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    path = tmp_path / "sys" / setting
    path.parent.mkdir(parents=True)
    path.write_text(f"{value}\n")
    assert remedy(errno.EPERM, str(tmp_path)).startswith(words)


def test_an_exhausted_limit_is_distinguished_from_missing_permission() -> None:
    """The errno distinguishes them."""
    assert "a limit of namespaces" in remedy(errno.ENOSPC)
