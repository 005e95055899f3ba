"""Names as Kubernetes makes them, drawn from hashes instead of chance, so that the same input gives the same names.

Source: k8s.io/apimachinery pkg/util/rand/rand.go (the alphabet), k8s.io/kubernetes pkg/controller/controller_utils.go (ComputeHash).
"""

import hashlib
from collections.abc import Container
from functools import lru_cache

import msgspec

from kubenetlab.api.pods import PodTemplateSpec

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels and no digits that look like letters, so that no words appear."""
_PAIRS = tuple(first + second for second in ALPHABET for first in ALPHABET)
"""Two letters for each number below their square; thousands of names are made at a time."""

MAX_GENERATED_BASE = 58
"""Source: k8s.io/apiserver pkg/storage/names/generate.go."""


def template_hash(template: PodTemplateSpec) -> str:
    """A ReplicaSet's hash: FNV-32a of its template, each decimal digit written in the safe alphabet."""
    return _hash(msgspec.json.encode(template, order="deterministic"))


@lru_cache(maxsize=1024)
def _hash(text: bytes) -> str:
    value = 0x811C9DC5
    for byte in text:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return "".join(ALPHABET[ord(digit) % len(ALPHABET)] for digit in str(value))


def suffix(*parts: str, length: int = 5) -> str:
    """`length` letters of the safe alphabet, the same for the same parts."""
    number = int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:8])
    letters = ""
    while len(letters) < length:
        number, index = divmod(number, len(_PAIRS))
        letters += _PAIRS[index]
    return letters[:length]


def child_name(parent: str, serial: int, taken: Container[str], *scope: str) -> tuple[str, int]:
    """(`parent-xxxxx`, the next serial) for the first serial whose name is not taken."""
    while True:
        name = f"{f'{parent}-'[:MAX_GENERATED_BASE]}{suffix(*scope, parent, str(serial))}"
        serial += 1
        if name not in taken:
            return name, serial
