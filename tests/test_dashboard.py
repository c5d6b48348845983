"""The dashboard as a browser shows it. What is looked at is in `browser`, a process of its own; this file has the
servers, the files and who asks for them. Pictures are left in `build/screenshots`.
"""

import http.client
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import pytest

from tests.program import PROJECT, Program, sparse
from tests.test_pages import NASTY

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]

SCREENSHOTS = PROJECT / "build" / "screenshots"
MIB = 1 << 20
VIEWERS_MAX = 32


class Browser:
    """`python -m tests.browser CHECK` at its work. Leaving the `with` waits for its end, which must be good."""

    def __init__(self, check: str, server: Program, *arguments: object) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed at the end of the `with`)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.browser",
                check,
                f"http://127.0.0.1:{server.port}",
                *map(str, arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=PROJECT,
        )

    def __enter__(self) -> "Browser":
        return self

    def wait_for(self, word: str) -> None:
        """Until it has come so far that it says this."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said == word, self._end()

    def go_on(self) -> None:
        """What it waited for is done."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _end(self) -> str:
        """What went wrong."""
        self._process.wait(30)
        self._errors.seek(0)
        return self._errors.read()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process, self._errors:
            try:
                if kind is None:
                    self._process.wait(50)
                    assert self._process.returncode == 0, self._end()
            finally:
                self._process.kill()


def look(check: str, server: Program, *arguments: object) -> None:
    """A check that needs nothing done meanwhile."""
    with Browser(check, server, *arguments):
        pass


def ask_for(server: Program, names: list[str]) -> None:
    """Each in turn on one connection."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        for name in names:
            connection.request("GET", f"/{quote(name)}")
            response = connection.getresponse()
            response.read()
            assert response.status == 200, name
    finally:
        connection.close()


# Files as people have them.


def names_as_usual(number: int) -> list[str]:
    """Photos above all, and what else lies about; the order is that of popularity."""
    dice = random.Random(number)
    kinds = [
        ("photos/{year}/{place}/IMG_{at:04}.jpg", 10),
        ("photos/{year}/{place}/thumbs/IMG_{at:04}.webp", 4),
        ("docs/{word}-{year}.pdf", 3),
        ("docs/{word}/chapter {small}.odt", 2),
        ("music/{word}/{small:02} {place}.flac", 3),
        ("videos/{place} {year}.mp4", 1),
        ("iso/{system}-{small}.{minor}-amd64.iso", 1),
        ("site/assets/{word}-{at:x}.js", 2),
    ]
    places = ["Rome", "Lisbon", "Tromsø", "Kyoto", "Bodensee", "Oaxaca", "at home"]
    words = ["invoices", "thesis", "taxes", "recipes", "garden", "letters", "minutes", "atlas"]
    names = {
        dice.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0].format(
            year=dice.randint(2019, 2026),
            place=dice.choice(places),
            word=dice.choice(words),
            small=dice.randint(1, 14),
            at=dice.randint(1, 9999),
            system=dice.choice(["debian", "alpine", "freebsd", "nixos"]),
            minor=dice.randint(0, 9),
        )
        for _ in range(2 * number)
    }
    return dice.sample(sorted(names), number)


def size_as_usual(name: str, dice: random.Random) -> int:
    """Lognormal around what such a file has."""
    middle = {"videos": 3 * MIB, "iso": 4 * MIB, "music": 600_000}.get(name.partition("/")[0], 60_000)
    return min(9 * MIB, round(dice.lognormvariate(0, 0.9) * (6000 if "thumbs" in name else middle)))


class Load:
    """Somebody who asks for `names`, the first ones more often (Zipf), not too fast, until the `with` ends."""

    def __init__(self, server: Program, names: list[str]) -> None:
        self._server = server
        self._names = names
        self._enough = threading.Event()
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        dice = random.Random(1)
        weights = [1 / (rank + 1) ** 0.9 for rank in range(len(self._names))]
        try:
            while not self._enough.wait(dice.expovariate(4)):
                ask_for(self._server, dice.choices(self._names, weights, k=20))
        except (OSError, http.client.HTTPException, AssertionError) as failure:
            self._failed.append(failure)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()
        assert self._failed == []


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server with five times as much to serve as it can hold, and asked for it all the time."""
    folder, dice = tmp_path_factory.mktemp("busy"), random.Random(8)
    names = names_as_usual(1000)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sparse(folder / name, size_as_usual(name, dice))
    with Program(folder, "--what-if") as server, Load(server, names):
        yield server


@pytest.fixture(scope="module")
def quiet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes from 0 to 130 KiB, no two alike; one of 1 MiB, and one that is too large for the cache."""
    folder = tmp_path_factory.mktemp("quiet")
    # Odd, so that no size lies halfway between two that can be said.
    sizes = {name: at and at * at * 4 + at * 100 + 1 for at, name in enumerate(sorted(names_as_usual(170)))}
    for name, size in (sizes | {"one large.zip": MIB, "too large.zip": 9 * MIB}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(random.Random(size).randbytes(size))
    return folder


@pytest.fixture(scope="module")
def quiet(quiet_folder: Path) -> Iterator[Program]:
    """A server that has had every kind of answer, evicted some, and is left alone now."""
    names = sorted(names_as_usual(170))
    dice = random.Random(2)
    with Program(quiet_folder, "--what-if", "--cache", "7MiB", "--policy", "lru") as server:
        ask_for(server, [*names, "too large.zip", "too large.zip", "one large.zip"])
        ask_for(server, [name for name in names for _ in range(dice.choice([0, 0, 1, 2, 5, 20]))])
        yield server


# What it shows.


def test_the_map_shows_what_list_says_with_areas_that_are_the_sizes(quiet: Program) -> None:
    look("map", quiet)


def test_the_numbers_are_those_of_the_statistics(quiet: Program) -> None:
    look("numbers", quiet)


def test_a_server_that_has_done_nothing_says_so(folder: Path) -> None:
    with Program(folder) as server:
        look("without_what_if", server)


def test_pointing_at_a_file_tells_of_it_and_a_click_downloads_it(quiet: Program, quiet_folder: Path) -> None:
    look("hover_and_download", quiet, quiet_folder)


def test_the_files_can_be_searched_and_sorted(quiet: Program) -> None:
    look("table", quiet)


# Live.


def test_a_page_that_is_paused_shows_one_moment_and_asks_for_nothing(quiet: Program) -> None:
    look("pause", quiet)


def test_a_request_is_seen_without_asking_for_the_page_again(folder: Path) -> None:
    (folder / "old").write_bytes(b"x" * 500)
    (folder / "new one").write_bytes(b"x" * 1000)
    with Program(folder) as server:
        ask_for(server, ["old", "old"])
        with Browser("live", server) as browser:
            browser.wait_for("ask for a new file, twice")
            ask_for(server, ["new one", "new one"])
            browser.go_on()


def test_under_load_everything_goes_on(busy: Program) -> None:
    look("load", busy)


def test_where_too_many_watch_the_page_asks_now_and_then(folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    with Program(folder) as server, ExitStack() as watching:
        ask_for(server, ["a"])
        for _ in range(VIEWERS_MAX):
            viewer = watching.enter_context(socket.create_connection((server.host, server.port), timeout=30))
            viewer.sendall(b"GET /-/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert viewer.recv(15) == b"HTTP/1.1 200 OK"
        with Browser("polling", server) as browser:
            browser.wait_for("ask for it, twice")
            ask_for(server, ["a", "a"])
            browser.go_on()
            browser.wait_for("stop")
            server.stop()
            browser.go_on()


def test_a_server_that_went_is_said_to_be_gone_and_found_again(folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    with Program(folder) as server, ExitStack() as later:
        ask_for(server, ["a"])
        with Browser("offline", server) as browser:
            browser.wait_for("stop")
            server.stop()
            browser.go_on()
            browser.wait_for("start")
            later.enter_context(Program(folder, changes=f"import sys; sys.argv[1] = '{server.port}'"))
            browser.go_on()


# For everybody.


def test_everything_can_be_reached_and_used_by_keyboard(quiet: Program) -> None:
    look("keyboard", quiet)


def test_a_screen_reader_gets_names_and_roles(quiet: Program) -> None:
    look("accessibility", quiet)


def test_text_can_be_read_in_light_and_dark(quiet: Program) -> None:
    look("colours", quiet)


def test_a_phone_need_not_scroll_sideways(hostile: Program) -> None:
    look("phone", hostile)


def test_a_finger_tells_first_and_downloads_then(quiet: Program) -> None:
    look("touch", quiet)


def test_who_is_at_a_files_link_stays_there(folder: Path) -> None:
    for at in range(20):
        (folder / f"{at:02}").write_bytes(b"x" * (1000 + at))
    (folder / "larger").write_bytes(b"x" * 9999)
    with Program(folder) as server:
        ask_for(server, [f"{at:02}" for at in range(20)])
        with Browser("focus_stays", server) as browser:
            browser.wait_for("ask for a larger file")
            ask_for(server, ["larger"])
            browser.go_on()


# What must not happen.


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server whose files are called what nobody should call a file; half are in the cache, half were evicted."""
    folder = tmp_path_factory.mktemp("hostile")
    names = [
        *NASTY,
        "<img src=x onerror=alert(1)>",
        "' autofocus onfocus=alert(1) x='",
        "x" * 255,
        "\u202etxt.exe",
    ]
    for name in names:
        for path, larger in ((name, 0), (f"again/{name}", 1)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(f"{path}\n".ljust(2000 + larger))
    with Program(folder, "--cache", str(2010 * len(names)), "--policy", "lru") as server:
        ask_for(server, names)
        ask_for(server, [f"again/{name}" for name in names])
        yield server


def test_hostile_names_are_only_names(hostile: Program) -> None:
    look("hostile", hostile)


def test_nothing_runs_or_is_fetched_that_the_page_did_not_bring(quiet: Program) -> None:
    """Somebody listens elsewhere, and nobody comes."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        look("policy", quiet, f"http://127.0.0.1:{elsewhere.getsockname()[1]}")
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


# Many files.


def ask_at_once(server: Program, paths: list[bytes], ahead: int = 100) -> None:
    """Pipelined on one connection, so many ahead; each answer must be a 200."""
    with server.connect() as client:
        for start in range(0, len(paths), ahead):
            some = paths[start : start + ahead]
            client.sendall(b"".join(b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in some))
            answers = 0
            rest = b""
            while answers < len(some):
                piece = client.recv(1 << 16)
                assert piece
                rest += piece
                answers += rest.count(b"HTTP/1.1 200 OK\r\n")
                rest = rest[-16:]


def test_sixty_thousand_files_are_a_thousand_and_the_others(folder: Path) -> None:
    names = [f"{at:05}" for at in range(58_900)] + [f"large-{at:04}" for at in range(1100)]
    for at, name in enumerate(names):
        (folder / name).write_bytes(b"x" * (100 if at < 58_900 else at - 58_700))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with Program(folder) as server:
        paths = [name.encode() for name in names]
        clients = [threading.Thread(target=ask_at_once, args=(server, paths[at::3])) for at in range(3)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert server.stats()["entries"] == 60_000
        look("many", server, SCREENSHOTS / "many.png")


# Pictures.


def test_the_pictures_are_taken(busy: Program, folder: Path) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    began = time.time()
    look("pictures", busy, SCREENSHOTS)
    with Program(folder) as server:
        look("empty_picture", server, SCREENSHOTS)
    for name in ("dashboard", "light", "dark", "phone", "empty"):
        picture = SCREENSHOTS / f"{name}.png"
        assert picture.stat().st_mtime > began - 1
        assert picture.read_bytes().startswith(b"\x89PNG")
