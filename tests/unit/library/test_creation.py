"""Creation of labs in the background: what is left of one that fails."""

from __future__ import annotations

import pytest

from kubenetlab.errors import ManifestError
from kubenetlab.library import creation
from kubenetlab.library.creation import LabCreation, new_name


def test_a_lab_that_was_not_made_is_not_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run with many such tests would take long, and the name may be used again."""
    labs: dict[str, bool] = {}

    def remove_at_end(lab: str, *, is_gone: bool = False) -> None:
        labs[lab] = not is_gone

    monkeypatch.setattr(creation, "remove_at_end", remove_at_end)
    name = new_name()
    making = LabCreation(name, ["-f", "no-such-file.yaml"], "", is_removed_at_end=True)
    assert labs == {name: True}
    with pytest.raises(ManifestError, match="no-such-file"):
        making.finish()
    assert labs == {name: False}
