"""Every directory of manifests/ has a page, a Cluster document, manifests and a table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubenetlab.cli.input.manifests import read
from kubenetlab.observe.checks.truth_table import load

MANIFESTS = Path(__file__).parents[2] / "manifests"
FOLDERS = sorted(path for path in MANIFESTS.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_lab_is_named_as_its_folder(folder: Path) -> None:
    """The Cluster document has the directory's name, and all manifests load without problems."""
    config = read([str(folder)], strict=True).cluster_config
    assert config.name == re.sub(r"^\d+-", "", folder.name)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_lab_has_its_page(folder: Path) -> None:
    """The page has the commands from `up` to `down` and the table; the list of labs links to it."""
    page = (folder / "README.md").read_text()
    commands = re.findall(r"^(?:\$ )?(kubenetlab .*?)(?:  +#.*)?$", page, re.MULTILINE)
    assert commands[0] in ("kubenetlab up", f"kubenetlab up -f manifests/{folder.name}")
    assert f"kubenetlab check -f manifests/{folder.name}/expect.yaml" in commands
    assert commands[-1] == "kubenetlab down"
    assert f"[{folder.name}]({folder.name})" in (MANIFESTS / "README.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_lab_has_its_table(folder: Path) -> None:
    """The table has a name and at least five probes."""
    table, _ = load(str(folder / "expect.yaml"))
    assert table.name
    assert len(table.probes) >= 5


def test_copied_manifests_name_their_licence() -> None:
    """The page of the directory names copyright, licence and origin of copied manifests."""
    copied = [path for path in MANIFESTS.glob("*/*.yaml") if "Copyright" in path.read_text()[:200]]
    assert copied
    for path in copied:
        page = (path.parent / "README.md").read_text()
        assert re.search(rf"`{path.name}` is .*Copyright .*License", page, re.DOTALL), path
        assert "https://github.com/" in page
