"""Messages of a new lab to the `up` that is waiting for it."""

from __future__ import annotations

import traceback

from kubenetlab.errors import KubenetlabError, RequirementError, os_error_text
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.messages.creation import CreationFailed, CreationMessage
from kubenetlab.lab.transport.frames import encode


def send(context: LabContext, message: CreationMessage) -> None:
    """Send a message to `up`, if it is waiting and its end of the socket is open."""
    if context.progress is not None:
        try:
            context.progress.sendall(encode(message))
        except OSError:
            pass


def send_error(context: LabContext, error: BaseException) -> None:
    """Tell `up` why the lab cannot be built.

    An OSError is a requirement that the machine does not meet; any other unexpected exception is a
    bug.
    """
    if isinstance(error, OSError):
        error = RequirementError(f"cannot make lab {context.lab}: {os_error_text(error)}")
    kind = type(error).__name__ if isinstance(error, KubenetlabError) else "BugError"
    text = str(error) if isinstance(error, KubenetlabError) else f"{type(error).__name__}: {error}"
    send(context, CreationFailed(text, kind, traceback.format_exc()))
