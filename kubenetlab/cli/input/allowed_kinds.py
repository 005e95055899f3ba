"""Kinds after --allow-unmodelled: a word that names no kind would accept nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubenetlab.cli.input.selection import is_kind_name

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


def refuse_unknown_kinds(client: Client, words: Sequence[str] | None) -> None:
    """Raise UsageError for a word that is no kind, neither of Kubernetes nor in the lab.

    A kind of another project that the lab does not contain is known by name, or has its API group.
    """
    from kubenetlab.api.builtin import all_kinds
    from kubenetlab.api.kinds import find_kind, known_words
    from kubenetlab.api.manifests.unenforced import known_kinds
    from kubenetlab.errors import UsageError, did_you_mean

    kinds = all_kinds() | known_kinds()
    is_complete = False
    for word in words or ():
        if "." in word or find_kind(word) is not None:
            continue
        if any(is_kind_name(kind, word) for kind in kinds):
            continue
        if not is_complete:
            kinds |= {str(document["kind"]) for document in client.given_documents()}
            is_complete = True
        if not any(is_kind_name(kind, word) for kind in kinds):
            guess = did_you_mean(word, (*known_words(), *sorted(kinds)))
            raise UsageError(
                f'--allow-unmodelled {word}: there is no kind "{word}"{guess}\n'
                f"  a kind that the lab does not contain needs its API group: {word}.example.com"
            )


def is_allowed_kind(kind: str, word: str) -> bool:
    """Return True if a word after --allow-unmodelled names a kind; `cnp` names two of them.

    kind: name of a diagnostic's kind, with its API group if the lab does not serve it.
    """
    from kubenetlab.api.kinds import find_kind
    from kubenetlab.api.policies.cilium_network_policy import CiliumNetworkPolicy

    served = find_kind(kind)
    if is_kind_name(kind.partition(".")[0], word):
        return True
    return served is not None and (
        is_kind_name(served.document_kind(), word)
        or find_kind(word) is served
        or (served is CiliumNetworkPolicy and word.lower() == "cnp")
    )
