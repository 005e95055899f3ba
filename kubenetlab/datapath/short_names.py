"""Short names of modes on the command line: `flannel-vxlan` is `flannel,backend=vxlan`."""

from __future__ import annotations

from typing import cast, get_args

import msgspec

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.datapath.modes import ModeOptions, known, load


def expand_short_name(family: str, document: JsonMapping) -> dict[str, object]:
    """Return a mode of the command line with a short name such as `flannel-vxlan` in full.

    A short name is the name of a mode and a value of one of its options, here `backend`, which has
    precedence over other options. Any other mode is returned as it is.
    """
    short_name, names = str(document["type"]), known(family)
    if short_name in names:
        return dict(document)
    for name in names:
        value = short_name.removeprefix(f"{name}-")
        options = [
            field.encode_name
            for field in msgspec.structs.fields(cast(ModeOptions, load(family, name, {})))
            if value != short_name and value in get_args(field.type)
        ]
        if "backend" in options or len(options) == 1:
            option = "backend" if "backend" in options else options[0]
            return {**document, "type": name, option: value}
    return dict(document)
