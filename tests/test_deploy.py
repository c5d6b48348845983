"""The container's recipe: linted, and its own commands run outside of a container."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.program import PROJECT

DOCKERFILE = PROJECT / "deploy" / "Dockerfile"
INSTALLED = "/opt/gserver"
"""Where the build stage puts what is copied."""

GIVE_UP_S = 50

HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)


def instructions(name: str) -> list[str]:
    """What stands behind each of the Dockerfile's instructions of that name."""
    whole = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", whole, re.MULTILINE)


def words(instruction: str) -> list[str]:
    """The one such instruction's command, which is in exec form: no shell that would keep SIGTERM to itself."""
    (text,) = instructions(instruction)
    found: list[str] = json.loads(text[text.index("[") :])
    return found


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint for this system")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [str(HADOLINT), "--failure-threshold", "style", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_nobody_in_particular() -> None:
    user, group = instructions("USER")[-1].split(":")
    assert min(int(user), int(group)) >= 10_000


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build stage makes, by its own command, of what .dockerignore lets through."""
    place = tmp_path_factory.mktemp("image")
    sent = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in sent:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, place / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (place / "src").mkdir(exist_ok=True)
            shutil.copy(PROJECT / name, place / "src" / name)
    (build,) = instructions("RUN")
    done = subprocess.run(
        ["sh", "-c", build.replace(INSTALLED, str(place / "installed"))],
        cwd=place / "src",
        env=offline(),
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "installed"


def offline() -> dict[str, str]:
    """An environment in which pip takes nothing from the network: all that is needed is installed here."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of --build-isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@contextmanager
def started(image: Path, folder: Path, *more: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """ENTRYPOINT and CMD, over another folder and on a free port; the process, and its port."""
    port, directory = words("CMD")
    assert port == words("HEALTHCHECK")[2] == instructions("EXPOSE")[0]
    assert directory == "/srv"
    command, *options = words("ENTRYPOINT")
    with subprocess.Popen(
        [image / "bin" / command, *options, *more, "0", folder],
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=offline(),
    ) as process:
        try:
            assert process.stderr
            said = ""
            while not (found := re.search(r":(\d+)/ serves ", said)):
                said = process.stderr.readline()
                assert said, "it did not start"
            yield process, found[1]
        finally:
            process.kill()


def is_healthy(image: Path, port: str) -> int:
    """HEALTHCHECK at another port: its exit code."""
    command, host, _, *more = words("HEALTHCHECK")
    line = [str(image / "bin" / command), host, port, *more]
    return subprocess.run(line, env={}, capture_output=True, timeout=GIVE_UP_S, check=False).returncode


def has_ipv6() -> bool:
    """Whether the kernel knows it: `::` takes no address of any interface."""
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="as it stands", marks=needs_ipv6),
        pytest.param(("--host", "0.0.0.0"), id="without IPv6"),
    ],
)
def test_what_the_container_runs_serves_is_healthy_and_drains(
    image: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    (tmp_path / "x").write_bytes(b"content")
    with started(image, tmp_path, *more) as (server, port):
        assert is_healthy(image, port) == 0
        fetched = [str(image / "bin" / "gclient"), "127.0.0.1", port, "x", "-"]
        assert subprocess.run(fetched, capture_output=True, timeout=GIVE_UP_S, check=True).stdout == b"content"
        server.terminate()
        log = server.communicate(timeout=GIVE_UP_S)[1]
        assert server.returncode == 0
        assert "stopped, 0 transfers cut" in log
    assert is_healthy(image, port) != 0
