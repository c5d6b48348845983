from collections.abc import Callable
from pathlib import Path
from tests.program import Program


def test_hello(start: Callable[..., Program], folder: Path) -> None:
    (folder / "a").write_bytes(b"hello")
    server = start()
    assert server.get("/a")[2] == b"hello"
    assert server.get("/a")[1]["x-cache"] == "HIT"
