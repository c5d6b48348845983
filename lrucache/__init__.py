"""A byte-budgeted cache of named payloads. It knows names, sizes and chunks; no file, path or socket."""

from lrucache.cache import CHUNK_BYTES, MAX_ENTRIES, Cache, CacheStats, Entry, Outcome, Refusal
from lrucache.policies import POLICIES, Policy

__all__ = [
    "CHUNK_BYTES",
    "MAX_ENTRIES",
    "POLICIES",
    "Cache",
    "CacheStats",
    "Entry",
    "Outcome",
    "Policy",
    "Refusal",
]
