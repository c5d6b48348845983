"""What the tests share. The pytest process is never monkey-patched: in-process tests use gevent explicitly, and
gserver.py, Locust and other programs run as subprocesses."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.program import PROJECT, Program


@pytest.fixture(params=["auto", "pool"])
def io(request: pytest.FixtureRequest) -> str:
    """Both ways of reading: whatever uses this runs once with each."""
    mode: str = request.param
    return mode


@pytest.fixture(params=["auto", "pool", "objects"])
def source(request: pytest.FixtureRequest) -> str:
    """Both ways of reading a folder, and its files as objects: for rooms above the root, which may not care."""
    kind: str = request.param
    return kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to serve."""
    path = tmp_path / "served"
    path.mkdir()
    return path


@pytest.fixture
def start(folder: Path, io: str) -> Iterator[Callable[..., Program]]:
    """Start gserver.py over `folder` with more options; stopped, and checked, at the end of the test."""
    with ExitStack() as running:

        def starter(*options: str) -> Program:
            return running.enter_context(Program(folder, "--io", io, *options))

        yield starter


@pytest.fixture(scope="session")
def shared_lists() -> Path:
    """The folder of public attack lists beside the project, where there is one."""
    path = PROJECT.parent / "shared" / "lists"
    if not path.is_dir():
        pytest.skip("the public lists are not beside this checkout")
    return path
