"""Generated names in Kubernetes' form, derived from hashes: equal input gives equal names.

Source: k8s.io/apimachinery pkg/util/rand/rand.go (the alphabet), k8s.io/kubernetes
pkg/controller/controller_utils.go (ComputeHash).
"""

import hashlib
from collections.abc import Container
from functools import lru_cache

import msgspec

from kubenetlab.api.pods import PodTemplateSpec

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Letters and digits of generated names: without vowels, so that no words appear."""
_PAIRS = tuple(first + second for second in ALPHABET for first in ALPHABET)
"""Pairs of letters: encoding two at a time is faster, and a lab makes thousands of names."""

MAX_GENERATED_BASE = 58
"""Maximum length of the part before the suffix.

Source: k8s.io/apiserver pkg/storage/names/generate.go.
"""


def template_hash(template: PodTemplateSpec) -> str:
    """Return the pod-template-hash: FNV-32a of the template, its digits in the safe alphabet."""
    return _hash(msgspec.json.encode(template, order="deterministic"))


@lru_cache(maxsize=1024)
def _hash(text: bytes) -> str:
    value = 0x811C9DC5
    for byte in text:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return "".join(ALPHABET[ord(digit) % len(ALPHABET)] for digit in str(value))


def suffix(*parts: str, length: int = 5) -> str:
    """Return `length` letters of the safe alphabet, derived from `parts`."""
    number = int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:8])
    letters = ""
    while len(letters) < length:
        number, index = divmod(number, len(_PAIRS))
        letters += _PAIRS[index]
    return letters[:length]


def child_name(parent: str, serial: int, taken: Container[str], *scope: str) -> tuple[str, int]:
    """Return the first name `parent-xxxxx` that is not taken, and the serial after it.

    serial: the first serial to try.
    scope: further input of the hash, such as the namespace.
    """
    while True:
        name = f"{f'{parent}-'[:MAX_GENERATED_BASE]}{suffix(*scope, parent, str(serial))}"
        serial += 1
        if name not in taken:
            return name, serial
