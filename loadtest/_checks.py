"""Everything that is looked at, by name: who looks, and what that takes. Pure.

A check belongs to the user classes that make it; one without users is made by the watch on the master. The verdict
asks of each check that could be made that it was, and held.
"""

from dataclasses import dataclass

ANSWER = "a request for a file is answered with it"
LENGTH = "a body is as long as its head says, and as its file"
CONTENT = "content is that of the file"
VERSION = "one ETag, one content"
ORIGIN = "X-Cache says where it came from"
PARTS = "two ranges make one file"
CONDITION = "a current ETag is 304"
OUT_OF_RANGE = "a range beyond the end is 416"
LISTS = "LIST is answered"
ONCE = "LIST names nothing twice"
EXISTS = "every listed name exists and is cached"
WHOLE = "LIST names all that is cached"
FITS = "listed files fit the cache"
PROVED = "a name that left LIST is a MISS again"
STAMPEDE = "a stampede on a cold file is one MISS"
SLOW = "a slow reader gets its file"
FRESH = "a replaced file is served within the window"
RIGHT_ERROR = "a bad request gets the right error"
ONE_LINE = "the one-line protocol answers alike"

ONE_INSTANT = "/-/cache answers"
BUDGET = "cached + filling <= capacity"
PEAK = "peak <= capacity"
VIOLATIONS = "violations == 0"
ENTRIES = "stats.entries == entries listed"
SUM = "sizes listed add up to cached"
RESULTS = "hits + misses + coalesced + bypasses == file_answers"
EVICTS = "evictions > 0 once more was read than fits"
MEMORY = "RSS below its bound"
AGREES = "the server counts what the users counted"
LEAVES = "descriptors and connections fall back"
NO_READS = "a hit reads no file"
ONE_READ = "a stampede reads its file once"

READERS = frozenset({"Reader", "Scanner", "Resumer"})


@dataclass(frozen=True, slots=True)
class Check:
    """A check: `by` whom (user classes; empty: the watch), and what it `needs`: stats, corpus, pid, or nothing."""

    name: str
    by: frozenset[str] = frozenset()
    needs: str = ""


CHECKS = (
    Check(ANSWER, READERS | {"Stampede"}),
    Check(LENGTH, READERS | {"Stampede"}),
    Check(CONTENT, READERS | {"Stampede"}, "corpus"),
    Check(VERSION, READERS),
    Check(ORIGIN, READERS),
    Check(PARTS, frozenset({"Resumer"})),
    Check(CONDITION, frozenset({"Resumer"})),
    Check(OUT_OF_RANGE, frozenset({"Resumer"})),
    Check(LISTS, frozenset({"Lister"})),
    Check(ONCE, frozenset({"Lister"})),
    Check(EXISTS, frozenset({"Lister"})),
    Check(WHOLE, frozenset({"Lister"})),
    Check(FITS, frozenset({"Lister"})),
    Check(PROVED, frozenset({"Lister"})),
    Check(STAMPEDE, frozenset({"Stampede"})),
    Check(SLOW, frozenset({"SlowReader"})),
    Check(FRESH, frozenset({"Publisher"}), "corpus"),
    Check(RIGHT_ERROR, frozenset({"Stranger"})),
    Check(ONE_LINE, frozenset({"OneLiner"})),
    Check(ONE_INSTANT),
    Check(BUDGET, needs="stats"),
    Check(PEAK, needs="stats"),
    Check(VIOLATIONS, needs="stats"),
    Check(ENTRIES, needs="stats"),
    Check(SUM, needs="stats"),
    Check(RESULTS, needs="stats"),
    Check(EVICTS, needs="stats"),
    Check(MEMORY, needs="rss"),
    Check(AGREES, needs="stats"),
    Check(LEAVES, needs="stats"),
    Check(NO_READS, needs="pid"),
    Check(ONE_READ, needs="pid"),
)
