"""Codes of diagnostics: the documentation names each."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubenetlab.diagnostics import ADVICE, MISCONFIGURATIONS, NOT_ENFORCED

PAGE = (Path(__file__).parents[3] / "docs" / "ci.md").read_text()


@pytest.mark.parametrize("code", [*MISCONFIGURATIONS, NOT_ENFORCED, *ADVICE])
def test_each_code_is_documented(code: str) -> None:
    assert f"`{code}`" in PAGE
