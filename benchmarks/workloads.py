"""What the servers are asked for: the files of each column of the table, and the requests."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.load import Asking

KIB = 1 << 10
MIB = 1 << 20

LARGE_CONNECTIONS = 16
"""For 16 MiB a file: with 64 of them only the sockets' buffers would be measured."""

BROWSERS = 1000
"""Different heads, prepared: to make one for each request would cost the generator more than the server."""

ZIPF_FILES = 4000
ZIPF_REQUESTS = 100_000
TINY_FILES = 60_000
TINY_REQUESTS = 200_000
TINY_CACHE = "15MB"

BROWSER = """Connection: keep-alive\r
sec-ch-ua: "Chromium";v="130", "Not?A_Brand";v="99"\r
sec-ch-ua-mobile: ?0\r
sec-ch-ua-platform: "Linux"\r
Upgrade-Insecure-Requests: 1\r
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8\r
Sec-Fetch-Site: same-origin\r
Sec-Fetch-Mode: navigate\r
Sec-Fetch-User: ?1\r
Sec-Fetch-Dest: document\r
Referer: http://localhost/page/{page}\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
Cookie: session={session:032x}; _ga=GA1.2.{visitor}.1700000000; theme=dark\r
"""
"""The fields that Chromium sends, with a Referer and a Cookie that differ in each request."""


@dataclass(frozen=True, slots=True)
class Column:
    """Files by name with their sizes in bytes, what is asked, and gserver's options for it."""

    title: str
    sizes: Mapping[str, int]
    asking: Asking
    options: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        """Make the files."""
        for name, size in self.sizes.items():
            (folder / name).write_bytes(b"x" * size)


def browsers() -> list[str]:
    """The fields of BROWSERS requests."""
    chance = random.Random(1)
    return [
        BROWSER.format(page=page, session=chance.getrandbits(128), visitor=chance.randrange(10**8, 10**9))
        for page in range(BROWSERS)
    ]


def zipf() -> Column:
    """Sizes spread evenly over the logarithm from 1 to 64 KiB, popularity by Zipf's law with exponent 1."""
    chance = random.Random(1)
    names = [f"f{number}" for number in range(ZIPF_FILES)]
    sizes = {name: int(KIB * 64 ** chance.random()) for name in names}
    asked = chance.choices(names, [1 / rank for rank in range(1, ZIPF_FILES + 1)], k=ZIPF_REQUESTS)
    return Column("4,000 mixed files, Zipf, all cached", sizes, Asking(asked))


def misses() -> Column:
    """Four times as many bytes as gserver may keep, each file as likely as another: three of four miss."""
    names = [f"f{number}" for number in range(TINY_FILES)]
    asked = random.Random(1).choices(names, k=TINY_REQUESTS)
    title = "60,000 x 1 KiB uniform, 15 MB cache (misses, page-cached)"
    return Column(title, dict.fromkeys(names, KIB), Asking(asked), ("--cache", TINY_CACHE))


@cache
def columns() -> dict[str, Column]:
    """Every column, by its name on the command line."""
    file = ["file"]
    tiny, large = {"file": KIB}, {"file": 16 * MIB}
    closing = ["Connection: close\r\n"]
    return {
        "1k": Column("1 KiB", tiny, Asking(file)),
        "browser": Column("1 KiB, browser's head with varying cookie", tiny, Asking(file, browsers())),
        "64k": Column("64 KiB", {"file": 64 * KIB}, Asking(file)),
        "1m": Column("1 MiB", {"file": MIB}, Asking(file)),
        "16m": Column("16 MiB", large, Asking(file, connections=LARGE_CONNECTIONS)),
        "close": Column("1 KiB, a connection each", tiny, Asking(file, closing)),
        "zipf": zipf(),
        "misses": misses(),
    }
