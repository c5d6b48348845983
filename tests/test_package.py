"""The wheel, installed into environments of its own: what `pip install .` gives."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import urllib.request
from pathlib import Path
from zipfile import ZipFile

import pytest

from gclient import __version__
from tests.program import PROJECT

GIVE_UP_S = 50


def run(*command: object, **options: object) -> "subprocess.CompletedProcess[str]":
    """To its end, in which it does not fail."""
    line = [str(word) for word in command]
    result = subprocess.run(line, capture_output=True, text=True, timeout=GIVE_UP_S, check=False, **options)  # type: ignore[call-overload]
    assert result.returncode == 0, result.stdout + result.stderr
    return result  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, PROJECT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing but the wheel is installed in it: not gevent either."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    return folder


def test_the_commands_are_there_and_agree_on_the_version(environment: Path, tmp_path: Path) -> None:
    lend_dependencies(environment, tmp_path)
    for name in ("gserver", "gclient"):
        said = run(environment / "bin" / name, "--version", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        assert said.stdout == f"{name} {__version__}\n"
        assert run(sys.executable, PROJECT / f"{name}.py", "--version").stdout == said.stdout


def test_a_file_goes_from_the_installed_server_to_the_installed_client(environment: Path, tmp_path: Path) -> None:
    """The client runs where nothing else is installed; the server is lent what it needs."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "x").write_bytes(b"content")
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    lend_dependencies(environment, libraries)
    with subprocess.Popen(
        [environment / "bin" / "gserver", "0", tmp_path / "served"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(libraries)},
    ) as server:
        try:
            assert server.stderr is not None
            said = server.stderr.readline()
            found = re.search(r":(\d+)/ serves ", said)
            assert found is not None, said + server.stderr.read()
            client = [environment / "bin" / "gclient", "127.0.0.1", found[1]]
            assert run(*client, "x", "-", cwd=tmp_path, env={}).stdout == "content"
            assert run(*client, "health", cwd=tmp_path, env={}).stdout == "ok\n"
            assert "<title>" in page(found[1], "")
            assert page(found[1], "openapi.json").startswith("{")
            assert "gserver_" in page(found[1], "metrics")
            server.terminate()
            assert server.wait(GIVE_UP_S) == 0
        finally:
            server.kill()


def test_the_client_needs_nothing_that_is_installed(environment: Path, tmp_path: Path) -> None:
    program = "import sys, gclient; gclient.Client; print('gevent' in sys.modules, gclient.__file__)"
    said = run(environment / "bin" / "python", "-c", program, cwd=tmp_path, env={}).stdout
    assert said.startswith(f"False {environment}")


def test_types_are_shipped(environment: Path, tmp_path: Path) -> None:
    """As who installs it would check their own program; mypy believes only what says that it is typed."""
    program = tmp_path / "program.py"
    program.write_text(
        "from gclient import Client, Transfer\n"
        "from lrucache import POLICIES, Cache\n"
        "def fetch(client: Client) -> Transfer:\n"
        "    return client.get('x', '/tmp')\n"
        "reveal_type(fetch(Client('localhost', 80)).size)\n"
        "reveal_type(Cache(1, POLICIES['lru'](1)).stats().entries)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, "--config-file", ""]
    said = run(*mypy, "--python-executable", environment / "bin" / "python", program, cwd=tmp_path).stdout
    assert re.findall('Revealed type is "(.*)"', said) == ["int | None", "int"]


def test_the_wheel_has_what_runs_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"gserver.py", "gclient", "lrucache", "fileserver"}
    files = {
        str(path.relative_to(PROJECT))
        for package in ("lrucache", "fileserver")
        for path in (PROJECT / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".md", ".png")
    }
    moved = {"fileserver/py.typed": "gclient/py.typed", "gclient.py": "gclient/__init__.py"}
    assert sorted(names) == sorted({moved.get(name, name) for name in files | {"gserver.py", "gclient.py"}})


def test_the_sdist_has_what_the_tests_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"Makefile", ".ci/run", "requirements.txt", "README.md", "tests/conftest.py", "gclient.py"} <= names


def test_what_is_required_is_what_requirements_txt_says_runs() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    text = (PROJECT / "requirements.txt").read_text()
    sections = {part.split("\n")[0][2:]: part for part in re.split(r"^(?=# )", text, flags=re.MULTILINE) if part}
    assert required(sections["What runs"]) == project["dependencies"]
    simulate = next(part for title, part in sections.items() if "fileserver.simulate" in title)
    assert required(simulate) == project["optional-dependencies"]["simulate"]
    assert required((PROJECT / "requirements-s3.txt").read_text()) == project["optional-dependencies"]["s3"]


def page(port: str, name: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/{name}", timeout=GIVE_UP_S) as answer:
        content: bytes = answer.read()
    return content.decode()


def required(section: str) -> list[str]:
    return [line.partition("#")[0].strip() for line in section.split("\n") if line.partition("#")[0].strip()]


def lend_dependencies(environment: Path, folder: Path) -> None:
    """What else the server needs, from where these tests run: no package index is asked."""
    for library in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(library).iterdir():
            if path.name.split(".")[0] not in ("gserver", "gclient", "lrucache", "fileserver"):
                (folder / path.name).symlink_to(path)
    assert (folder / "gevent").exists(), environment
