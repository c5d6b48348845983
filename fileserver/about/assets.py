"""What does not change under `/-/`: the dashboard's page, put together from its parts, and the OpenAPI file.

One page with its style and script inside, so that it works wherever one request does. Its policy names exactly
these two by their hashes: nothing else runs in it, and nothing comes from elsewhere.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path

_PARTS = Path(__file__).parent / "page"
_SCRIPTS = ("text.js", "treemap.js", "charts.js", "tables.js", "live.js")


@cache
def dashboard() -> tuple[bytes, str]:
    """The page, and its Content-Security-Policy. Blocks the first time, for 30 KB of our own."""
    style = _part("style.css")
    script = "\n".join(map(_part, _SCRIPTS))
    html = _part("page.html").replace("/* style */", style, 1).replace("// script", script, 1)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.encode(), policy


@cache
def openapi() -> bytes:
    """The pages under `/-/` in OpenAPI 3.1. Blocks the first time."""
    return Path(__file__).with_name("openapi.json").read_bytes()


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
