"""Files of the command line whose content is an option of a mode, such as a CNI list."""

from __future__ import annotations

from kubenetlab.api.text.decode import format_path
from kubenetlab.api.text.documents import read_documents
from kubenetlab.datapath.modes import try_load
from kubenetlab.errors import ManifestError, Problem

_TEMPLATE = b"{{"


def content_of(family: str, name: str, option: str, file: str, data: bytes) -> str:
    """Return the text of a file for an option of a mode.

    Raises ManifestError with the line of each mistake. Lines of a template are not known, because
    it is a document only after its values are filled in.
    """
    documents, problems = read_documents(file, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(problems) from None
    if not text.strip():
        raise ManifestError([Problem("the file is empty", file=file)])
    is_template = _TEMPLATE in data
    if problems and not is_template:
        raise ManifestError(problems)
    document = documents[0] if len(documents) == 1 and not is_template else None
    _, findings = try_load(family, name, {option: text})
    if any(not finding.is_warning for finding in findings):
        raise ManifestError(
            Problem(
                finding.message,
                format_path(finding.path[3:]),  # without networking, the family and the option
                file=file,
                line=document.line_of(finding.path[3:]) if document is not None else 0,
                hints=finding.hints,
                is_warning=finding.is_warning,
            )
            for finding in findings
        )
    return text
