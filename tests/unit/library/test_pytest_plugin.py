"""The pytest plugin without labs: its options, its costs, and what it says about mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kubenetlab.library import pytest_plugin

ROOT = Path(__file__).parents[3]
PLUGIN = "kubenetlab.library.pytest_plugin"
OPTIONS = ("-p", "no:kubenetlab", "-p", PLUGIN, "-p", "no:cacheprovider", "-q")
"""Options that load the plugin of this checkout, and no installed one."""


def pytest_run(
    directory: Path, *options: str, path: tuple[Path, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process of its own, with the plugin of this checkout."""
    paths = [str(entry) for entry in (*path, ROOT)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", f"--rootdir={directory}", *options, str(directory)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_entry_point_names_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"kubenetlab": PLUGIN}
    assert import_module(PLUGIN).pytest_configure


def test_an_installed_plugin_is_found_and_can_be_disabled(tmp_path: Path) -> None:
    """By its entry point, without a configuration."""
    info = tmp_path / "site" / "kubenetlab_here-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kubenetlab-here\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\nkubenetlab = {PLUGIN}\n")
    listed = pytest_run(tmp_path, "--markers", path=(tmp_path / "site",))
    assert "@pytest.mark.kubenetlab(manifests, text, render" in listed.stdout
    off = pytest_run(tmp_path, "--markers", "-p", "no:kubenetlab", path=(tmp_path / "site",))
    assert "kubenetlab" not in off.stdout


def test_the_plugin_imports_nothing_for_tests_that_do_not_use_it(tmp_path: Path) -> None:
    """Neither the package's modules nor the libraries that they need."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_other():\n"
        "    ours = {name for name in sys.modules if name.startswith('kubenetlab')}\n"
        "    assert ours == {'kubenetlab', 'kubenetlab.library',\n"
        f"                    '{PLUGIN}'}}\n"
        "    assert not {'msgspec', 'typer', 'yaml', 'asyncio'} & set(sys.modules)\n"
    )
    done = pytest_run(tmp_path, *OPTIONS)
    assert done.returncode == 0, done.stdout


def test_a_fixture_of_a_project_replaces_that_of_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def lab(): return 'own'\n"
        "def test_own(lab): assert lab == 'own'\n"
    )
    done = pytest_run(tmp_path, *OPTIONS)
    assert done.returncode == 0, done.stdout


MARKED = "import pytest\n{}\ndef test_it(lab): pass\n"
MISTAKES = {
    "no manifests": (
        "",
        "the fixture `lab` needs manifests for test_it.py: name them with "
        '@pytest.mark.kubenetlab(manifests="…"), or add test_it.yaml or a folder manifests/',
    ),
    "an unknown argument": (
        "@pytest.mark.kubenetlab(text='a', cnii='x')",
        'there is no argument "cnii"; did you mean cni?',
    ),
    "a missing file": (
        "@pytest.mark.kubenetlab(manifests='shop.yaml')",
        "manifests of the marker kubenetlab: there is no ",
    ),
    "a command that fails": (
        "@pytest.mark.kubenetlab(render=['sh', '-c', 'echo no chart >&2; exit 3'])",
        "render: sh -c echo no chart >&2; exit 3 ended with status 3: no chart",
    ),
    "a missing command": (
        "@pytest.mark.kubenetlab(render='no-such-helm template .')",
        "render: cannot run no-such-helm: No such file or directory",
    ),
    "an invalid manifest": (
        "@pytest.mark.kubenetlab(text='kind: Pod')",
        "ManifestError: <stdin>:1",
    ),
}


@pytest.mark.parametrize(("marker", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_an_error_without_a_traceback(
    marker: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(MARKED.format(marker))
    done = pytest_run(tmp_path, *OPTIONS)
    assert done.returncode == 1
    assert message in done.stdout
    assert "pytest_plugin.py" not in done.stdout


def test_a_link_without_a_target_is_a_mistake_of_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(MARKED.format(""))
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "lost.yaml").symlink_to(tmp_path / "nothing")
    done = pytest_run(tmp_path, *OPTIONS)
    assert "lost.yaml  cannot be read: No such file or directory" in done.stdout
    assert "pytest_plugin.py" not in done.stdout


SELECTIONS = """
import pytest
from kubenetlab.library import lab_options

@pytest.fixture
def paths(request):
    return [path.replace(str(request.config.rootpath) + "/", "")
            for path in lab_options.options_of(request.node).paths]
@pytest.fixture
def settings(request):
    return dict(lab_options.options_of(request.node).settings)
"""
TESTS = {
    "test_file.py": "def test_it(paths): assert paths == ['test_file.yaml']\n",
    "test_folder.py": "def test_it(paths): assert paths == ['test_folder']\n",
    "test_nearest.py": "def test_it(paths): assert paths == ['manifests']\n",
    "below/test_below.py": "def test_it(paths): assert paths == ['manifests']\n",
    "other/test_other.py": "def test_it(paths): assert paths == ['other/manifests']\n",
    "test_marked.py": """
import pytest
pytestmark = pytest.mark.kubenetlab("test_file.yaml", "test_folder", cni="ptp", nodes=2)
def test_of_the_module(paths, settings):
    assert paths == ["test_file.yaml", "test_folder"]
    assert settings == {"cni": "ptp", "nodes": 2}
@pytest.mark.kubenetlab(manifests="manifests", cni="bridge")
class TestOfAClass:
    def test_inherited(self, paths, settings):
        assert paths == ["manifests"]
        assert settings == {"cni": "bridge", "nodes": 2}
    @pytest.mark.kubenetlab(nodes=5)
    def test_own(self, paths, settings):
        assert settings == {"cni": "bridge", "nodes": 5}
""",
}


def test_manifests_are_those_of_marker_file_or_folder(tmp_path: Path) -> None:
    """The closest marker has precedence, then the name of the module, then the nearest folder."""
    for folder in ("test_folder", "manifests", "other/manifests", "below"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "test_file.yaml").write_text("")
    (tmp_path / "conftest.py").write_text(SELECTIONS)
    for name, text in TESTS.items():
        (tmp_path / name).write_text(text)
    done = pytest_run(tmp_path, *OPTIONS)
    assert "8 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("processors", "workers", "setting", "expected"),
    [(2, "", True, True), (1, "", True, False), (2, "2", True, False), (2, "", False, False)],
    ids=["a free processor", "one processor", "a worker for each processor", "disabled"],
)
def test_labs_are_made_ahead_where_a_processor_is_free(
    monkeypatch: pytest.MonkeyPatch, processors: int, workers: str, setting: bool, expected: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(processors)))
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)
    if workers:
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", workers)
    config: Any = SimpleNamespace(getini=lambda name: setting)
    assert pytest_plugin._makes_ahead(config) == expected
