"""Which of several forms of a resource a client likes best: RFC 9110 section 12.5. Pure."""

import re

from fileserver.wire import Request

_WEIGHT = re.compile(rb"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")

_PREFERENCE = re.compile(rb"([a-z*][-a-z0-9_.*]*)=(10|[0-9])(?:;[^,]*)?")

BY_ACCEPT = {"Vary": "Accept"}

CODINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""Content codings and the suffixes of files that hold them, the smallest result first."""


def wants_json(request: Request, query: bytes) -> bool:
    """Whether a page that has both forms is wanted in JSON. Say BY_ACCEPT with the answer."""
    return b"format=json" in query.split(b"&") or prefers_json(request.fields.get(b"accept", b""))


def prefers_json(accept: bytes) -> bool:
    """Whether JSON is named, and nothing that we also have (HTML, plain text) is liked better."""
    weights = _weights(accept)
    json = weights.get(b"application/json", 0.0)
    return json > 0 and json >= max(weights.get(b"text/html", 0.0), weights.get(b"text/plain", 0.0))


def accepted_codings(accept_encoding: bytes) -> list[str]:
    """The codings a client takes at least as gladly as the file as it is, best first."""
    weights = _weights(accept_encoding.lower().replace(b"x-gzip", b"gzip"))
    others = weights.get(b"*", 0.0)
    liked = {coding: weights.get(coding.encode(), others) for coding in CODINGS}
    plain = weights.get(b"identity", 0.0)  # acceptable unless refused, and then liked least
    best_first = sorted(CODINGS, key=lambda coding: -liked[coding])  # stable: ties keep our order
    return [coding for coding in best_first if liked[coding] > 0 and liked[coding] >= plain]


def wants_sha_256(want_repr_digest: bytes) -> bool:
    """Whether SHA-256 is among the digests a client can use (RFC 9530 section 4; 0: rather not)."""
    preferences = {}
    for member in want_repr_digest.split(b","):
        found = _PREFERENCE.fullmatch(member.strip(b" \t"))
        if found is None:
            return False  # a dictionary is read as a whole or not at all (RFC 9651 section 4.2)
        preferences[found[1]] = found[2]
    return preferences.get(b"sha-256", b"0") != b"0"


def _weights(value: bytes) -> dict[bytes, float]:
    """Each member of the list with its weight; a weight that is none counts as 1."""
    weights = {}
    for member in value.lower().split(b","):
        name, *parameters = (part.strip(b" \t") for part in member.split(b";"))
        found = next(filter(None, map(_WEIGHT.fullmatch, parameters)), None)
        weights[name] = float(found[1]) if found else 1.0
    return weights
