"""Errors of plugins: `{"code": …, "msg": …, "details": …}` on standard output.

Source: containernetworking/cni SPEC.md, section 5 "Error"; pkg/invoke/raw_exec.go (pluginErr).
"""

from __future__ import annotations

import json
from typing import Final

from msgspec import Struct

EXPLANATIONS: Final = {
    1: "the plugin does not support the list's cniVersion",
    2: "the plugin does not support a field of its configuration",
    3: "the plugin does not know the container; nothing is left to clean up",
    4: "the plugin found an environment variable such as CNI_NETNS missing or invalid",
    5: "the plugin could not read its configuration, or could not write",
    6: "the plugin could not decode its configuration",
    7: "the plugin's configuration is invalid",
    8: "the plugin could not open the pod's network namespace",
    11: "the plugin asks for another try later",
    50: "the plugin is not available: it cannot serve new pods",
    51: "the plugin is not available, and existing pods may have limited connectivity",
    999: "the plugin failed internally",
}
"""Code of the specification → meaning. Plugins choose codes from 100 themselves."""

MAX_SHOWN: Final = 1000
"""Maximum number of characters of a plugin's output in a message."""


class Outcome(Struct, frozen=True):
    """End of one call of a plugin's program."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_status: int = 0
    """Exit status; if a signal ended the program, minus the signal's number."""
    timeout_s: float = 0.0
    """Time after which the program was killed, in seconds; 0 if it ended by itself."""
    is_truncated: bool = False
    """True if the program wrote more than is read; it was killed."""
    start_error: str = ""
    """Cause of the failure to start the program; empty if it started."""


class PluginError(Exception):
    """A plugin failed, or answered something that is not a result; `str()` is libcni's message."""

    def __init__(self, message: str, code: int = 0, details: str = "") -> None:
        super().__init__(f"{message}; {details}" if details else message)
        self.code = code
        """Code of the specification, or of the plugin from 100; 0 if there is none."""
        self.message = message
        self.details = details

    @property
    def explanation(self) -> str:
        """Meaning of the code; empty for 0 and for codes of a plugin's own."""
        return EXPLANATIONS.get(self.code, "")


class CniError(Exception):
    """A command failed for a network list.

    `str()` is libcni's message, such as `plugin type="bridge" failed (add): …`.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code
        """Code of the plugin's error; 0 if there is none."""

    @property
    def explanation(self) -> str:
        """Meaning of the code; empty for 0 and for codes of a plugin's own."""
        return EXPLANATIONS.get(self.code, "")

    @property
    def explained(self) -> str:
        """The message with the code and its meaning, for users."""
        if not self.code:
            return str(self)
        meaning = f": {self.explanation}" if self.explanation else ""
        return f"{self} (code {self.code}{meaning})"


def output_of(outcome: Outcome) -> bytes:
    """Return what a plugin wrote. Raises PluginError if it did not succeed."""
    if outcome.start_error:
        raise PluginError(outcome.start_error)
    if outcome.timeout_s:
        raise PluginError(
            f"netplugin did not end within {outcome.timeout_s:g} s and was killed"
            + _quoted(outcome.stderr)
        )
    if outcome.is_truncated:
        raise PluginError(f"netplugin wrote too much and was killed{_quoted(outcome.stdout)}")
    if outcome.exit_status == 0:
        return outcome.stdout
    raise _error_of(outcome)


def _error_of(outcome: Outcome) -> PluginError:
    """Return the error of a plugin with an exit status other than 0."""
    status = outcome.exit_status
    ending = f"exit status {status}" if status > 0 else f"signal {-status}"
    if not outcome.stdout:
        if not outcome.stderr:
            return PluginError(f"netplugin failed with no error message: {ending}")
        return PluginError(f"netplugin failed{_quoted(outcome.stderr)}: {ending}")
    try:
        document = json.loads(outcome.stdout)
    except (ValueError, RecursionError) as error:
        return _not_an_error(outcome.stdout, str(error))
    if not isinstance(document, dict):
        return _not_an_error(outcome.stdout, "expected an object")
    code, message = document.get("code", 0), document.get("msg", "")
    details = document.get("details", "")
    if not isinstance(code, int) or not isinstance(message, str) or not isinstance(details, str):
        return _not_an_error(outcome.stdout, "expected code, msg and details")
    if not message:
        # A result, or an object of other fields: without the text, the message would be empty.
        return _not_an_error(outcome.stdout, "it has no msg")
    return PluginError(message, code, details)


def _not_an_error(stdout: bytes, cause: str) -> PluginError:
    return PluginError(
        f"netplugin failed but error parsing its diagnostic message{_quoted(stdout, '')}: {cause}"
    )


def _quoted(output: bytes, separator: str = ":") -> str:
    """Return output for a message: one line, not too long; an empty text without output."""
    text = output[: MAX_SHOWN + 1].decode(errors="replace").strip()
    if not text:
        return ""
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return f"{separator} {json.dumps(shown, ensure_ascii=False)}"
