"""The loop never waits for a disk: for real, with a FUSE file system of 200 ms an open and 200 ms a read."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.program import PROJECT, Program

COLD = 100
SLOW_S = "0.2"


@pytest.fixture
def slow_folder(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """`folder`, mounted again through the slow file system."""
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as missing:
        pytest.skip(f"no FUSE library: {missing}")
    if not Path("/dev/fuse").exists():
        pytest.skip("this machine has no /dev/fuse")
    mount = tmp_path / "slow"
    mount.mkdir()
    program = [sys.executable, "-m", "tests.slow_fuse", str(folder), str(mount), SLOW_S]
    with subprocess.Popen(program, cwd=PROJECT) as file_system:
        try:
            while not mount.is_mount():
                if file_system.poll() is not None:
                    pytest.skip("this machine does not let us mount")
            yield mount
        finally:
            subprocess.run(["fusermount", "-u", str(mount)], check=False)
            file_system.wait(20)


def test_hits_go_on_while_a_real_disk_is_slow(folder: Path, slow_folder: Path, io: str) -> None:
    """A hundred cold files take more than a second; hits that waited for one of them would be a handful."""
    (folder / "hot").write_bytes(b"hot" * 20_000)
    for number in range(COLD):
        (folder / f"cold{number}").write_bytes(b"%d" % number)
    with Program(slow_folder, "--io", io) as server, ThreadPoolExecutor(COLD // 2) as crowd:
        server.get("/hot")
        cold = [crowd.submit(server.get, f"/cold{number}") for number in range(COLD)]
        hits = 0
        while not all(one.done() for one in cold):
            status, fields, body = server.get("/hot")
            assert (status, len(body)) == (200, 60_000)
            hits += fields["x-cache"] == "HIT"
        assert [one.result()[2] for one in cold] == [b"%d" % number for number in range(COLD)]
        assert hits > COLD
