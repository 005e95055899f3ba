"""Manual pages of modes, which are the docstrings of their modules and classes."""

from __future__ import annotations

import importlib
import inspect

from kubenetlab.datapath.modes import ModeOptions


def manual(family: str, name: str) -> str:
    """Return a mode's manual page: the docstrings of its module, its class and shared options."""
    module = importlib.import_module(f"{__package__}.{family}.{name.replace('-', '_')}")
    classes = module.Mode.__mro__[: module.Mode.__mro__.index(ModeOptions)]
    options, *shared = (inspect.cleandoc(cls.__doc__ or "") for cls in classes)
    entries = "\n".join(text.partition("\n\n")[2] for text in shared)  # without their summaries
    gap = "\n\n" if "\n\n" in entries else "\n"
    page = f"{inspect.cleandoc(module.__doc__ or '')}\n\n{options}"
    return f"{page}{gap}{entries}" if entries else page
