"""tests/upstream/builder.py, with programs that take the place of Go and apt-get."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upstream import builder
from tests.upstream.builder import GoModule, NotAvailableError, build, is_cached

MODULE = GoModule(
    "tool", "example.org/tool", "v1.2.3", {"tool": "cmd/tool"}, {"cloud.go": "package cloud\n"}
)
GO = """#!/bin/sh
echo "$@" >>"{folder}/calls"
case $1 in
  mod) echo '{{"Dir": "{folder}/module"}}' ;;
  build) [ -e "{folder}/broken" ] && {{ echo "main.go:1: broken" >&2; exit 1; }}
    cat cloud.go cmd/tool/main.go >"$5" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a module of which all is read-only, and a `go` first on the PATH."""
    package = tmp_path / "module/cmd/tool"
    package.mkdir(parents=True)
    (package / "main.go").write_text("package main\n")
    (package.parents[1] / "cloud.go").write_text("package cloud // with modules\n")
    for path in (package, *package.parents[:2], *package.rglob("*.go")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "bin").mkdir()
    go = tmp_path / "bin/go"
    go.write_text(GO.format(folder=tmp_path))
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_module_is_built_once(folder: Path) -> None:
    """The second request takes the program from the cache and does not run Go."""
    first = build(MODULE)
    calls = (folder / "calls").read_text()
    assert build(MODULE) == first == folder / "cache/kubenetlab/upstream/tool-v1.2.3"
    assert (folder / "calls").read_text() == calls
    assert is_cached(MODULE)


def test_parts_of_a_module_are_replaced(folder: Path) -> None:
    """A replaced file is built in place of the module's, which stays as it is."""
    assert (build(MODULE) / "tool").read_text() == "package cloud\npackage main\n"
    assert (folder / "module/cloud.go").read_text() == "package cloud // with modules\n"


def test_a_build_that_fails_leaves_nothing(folder: Path) -> None:
    """The error has the compiler's message, and the next attempt builds again."""
    (folder / "broken").touch()
    with pytest.raises(NotAvailableError, match=r"go build .* failed:\nmain\.go:1: broken"):
        build(MODULE)
    assert {path.name for path in (folder / "cache/kubenetlab/upstream").iterdir()} == {
        "tool-v1.2.3.lock"
    }
    (folder / "broken").unlink()
    assert (build(MODULE) / "tool").exists()


def test_a_machine_without_go_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin/go").unlink()
    monkeypatch.setattr(builder, "GO_FOLDERS", "")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotAvailableError, match="Go is not installed"):
        build(MODULE)
    assert not is_cached(MODULE)
