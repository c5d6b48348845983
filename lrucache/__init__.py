"""A byte-budgeted cache of named payloads. It knows names, sizes and chunks; no file, path or socket."""

from lrucache.cache import (
    CHUNK_BYTES,
    EVICTIONS_KEPT,
    MAX_ENTRIES,
    Accesses,
    Cache,
    CacheStats,
    Entry,
    Eviction,
    Foreseen,
    Outcome,
    Refusal,
)
from lrucache.policies import POLICIES, Policy

__all__ = [
    "CHUNK_BYTES",
    "EVICTIONS_KEPT",
    "MAX_ENTRIES",
    "POLICIES",
    "Accesses",
    "Cache",
    "CacheStats",
    "Entry",
    "Eviction",
    "Foreseen",
    "Outcome",
    "Policy",
    "Refusal",
]
