"""Several gservers as one, behind HAProxy as it is shipped: where names live, and what a node costs that goes."""

import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from http.client import HTTPConnection, HTTPException
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import quote

import pytest

from benchmarks.haproxy import SHIPPED
from tests.haproxy import GIVE_UP_S, PROGRAM, Cluster, clusters, wait_until
from tests.program import Program, gclient, sparse

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(PROGRAM is None, reason="haproxy is not installed"),
]

SMALL_BYTES = 8 * 1024
CACHE = "1MiB"
NAMES = [f"f{number}" for number in range(600)]
"""Of SMALL_BYTES each: all three caches together hold 384 of them."""

FEW = [f"few/{number}.bin" for number in range(90)]
"""Of SMALL_BYTES each: any one cache holds all of them."""

HOLDING = (
    "import sys; from gevent import sleep; connection.wire.plain = lambda *_: None; "
    "answer = connection.Connection._answer; "
    "connection.Connection._answer = lambda self, request: request.target.endswith(b'?hold') "
    "and (print('held', file=sys.stderr, flush=True), sleep(1000)) or answer(self, request)"
)
"""The node says that it has such a request, and does nothing about it."""

PAUSES_AT = 1 << 20
PAUSING = (
    "from gevent import sleep; connection.wire.plain = lambda *_: None; "
    "send = connection.Connection._send_body; "
    "connection.Connection._send_body = lambda self, head, body, start, end, **more: "
    f"send(self, head, body, start, end if start else {PAUSES_AT}, **more) or start or sleep(1000)"
)
"""The node sends the first MiB of an answer and no more, unless it begins further on."""


def content(name: str) -> bytes:
    """What the file of that name holds; no other holds it."""
    return f"{name}\n".encode().ljust(SMALL_BYTES, b".")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "served"
    (path / "few").mkdir(parents=True)
    for name in (*NAMES, *FEW):
        (path / name).write_bytes(content(name))
    return path


def ask_all(cluster: Cluster, names: list[str]) -> None:
    """Each once, through the proxy."""
    for name in names:
        assert cluster.get(f"/{name}") == (200, content(name))


def homes(cluster: Cluster) -> list[set[str]]:
    """The names that each node holds, when the caches are asked for FEW."""
    ask_all(cluster, FEW)
    return [set(names) for names in cluster.lists()]


# The file.


def test_the_file_is_valid_and_nothing_in_it_is_doubtful() -> None:
    done = subprocess.run(
        [str(PROGRAM), "-c", "-dW", "-f", str(SHIPPED)],
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Configuration file is valid\n", "")


# Where names live.


def test_the_caches_add_up(folder: Path) -> None:
    often = random.Random(1).choices(NAMES, k=3 * len(NAMES))
    with Program(folder, "--cache", CACHE) as alone:
        for name in often:
            assert alone.get(f"/{name}")[2] == content(name)
        fits = len(alone.names())
    assert fits == (1 << 20) // SMALL_BYTES
    with clusters(folder, "--cache", CACHE) as cluster:
        ask_all(cluster, often)
        held = [name for names in cluster.lists() for name in names]
    assert len(held) == 3 * fits
    assert len(set(held)) == len(held)


def test_a_name_has_one_home_however_it_is_spelled(folder: Path) -> None:
    odd = [f"it's (no {number}), été+~!.txt" for number in range(8)]
    for name in odd:
        (folder / name).write_bytes(b"odd")
        (folder / "few" / name).mkdir()
        (folder / "few" / name / "index.html").write_bytes(b"odd")
    with clusters(folder) as cluster:
        for name in odd:
            raw, encoded = quote(name, safe="'(),+~!"), "".join(f"%{byte:02x}" for byte in name.encode())
            for spelled in (raw, quote(name), quote(name).lower(), encoded, f"{raw}?v=2", f"{raw}?v=3"):
                assert cluster.get(f"/{spelled}") == (200, b"odd")
                assert cluster.get(f"http://host.example:81/{spelled}") == (200, b"odd")
            for spelled in (f"few/{raw}/", f"few/{raw}/index.html", f"f%65w%2F{encoded}/"):
                assert cluster.get(f"/{spelled}") == (200, b"odd")
        held = Counter(name for names in cluster.lists() for name in names)
    assert held == Counter(odd + [f"few/{name}/index.html" for name in odd])


def test_a_node_that_goes_takes_only_its_own_names_and_has_them_back(folder: Path) -> None:
    with clusters(folder) as cluster:
        before = homes(cluster)
        assert sum(map(len, before)) == len(FEW)
        assert min(map(len, before)) > len(FEW) / 6
        cluster.kill(1)
        ask_all(cluster, FEW)
        first, third = (set(cluster.nodes[number].names()) for number in (0, 2))
        assert first >= before[0]
        assert third >= before[2]
        assert not first & third
        assert first | third == set(FEW)
        assert len(first) > len(before[0])
        assert len(third) > len(before[2])
        cluster.restart(1)
        mine = min(before[1])
        wait_until(lambda: cluster.get(f"/{mine}")[0] == 200 and cluster.nodes[1].names() == [mine])
        assert homes(cluster) == [first, before[1], third]


# What is about a node, and what is about all.


@pytest.mark.parametrize(
    "page", ["stats", "cache", "cache?format=json", "metrics", "evictions", "events", "", "x"]
)
@pytest.mark.parametrize(
    "spelled",
    ["/-/{}", "/%2D/{}", "/-%2f{}", "/%2d%2F{}", "http://localhost/-/{}", "http://127.0.0.1:8081/%2d/{}"],
)
def test_what_a_node_says_of_itself_is_not_for_the_world(quiet: Cluster, spelled: str, page: str) -> None:
    """The nodes would show it to the proxy, which is a client on their own machine."""
    assert quiet.get(spelled.format(page)) == (403, b"403 each node has its own: ask the nodes\n")


@pytest.mark.parametrize("path", ["//-/stats", "/./-/stats", "/few/../-/stats", "/-/stats%zz", "/%00/-/stats"])
def test_nor_in_ways_that_are_no_names(quiet: Cluster, path: str) -> None:
    status, body = quiet.get(path)
    assert status in (400, 404)
    assert b"hits" not in body


def test_the_proxy_would_be_shown_what_it_keeps(quiet: Cluster) -> None:
    assert b"hits" in quiet.nodes[0].get("/-/stats")[2]


def test_health_is_that_of_all_together(folder: Path) -> None:
    with clusters(folder) as cluster:
        host = ("127.0.0.1", str(cluster.port))
        assert cluster.get("/-/health") == cluster.get("/%2d/health?x") == (200, b"ok\n")
        assert cluster.get("/-/health", "HEAD") == (200, b"")
        assert gclient(*host, "health").stdout == b"ok\n"
        for number in (0, 1):
            cluster.kill(number)
        ask_all(cluster, FEW)
        assert cluster.get("/-/health") == (200, b"ok\n")
        cluster.kill(2)
        wait_until(lambda: cluster.get("/-/health") == (503, b"no node is up\n"))
        assert gclient(*host, "health").returncode == 22


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For whoever leaves all nodes alone."""
    path = tmp_path_factory.mktemp("quiet")
    (path / "x").write_bytes(b"x")
    with clusters(path) as cluster:
        yield cluster


# What is lost when a node goes.


@pytest.mark.parametrize(("method", "answer"), [("GET", 200), ("HEAD", 200), ("POST", 502)])
def test_a_request_that_had_no_answer_is_asked_of_another_node(folder: Path, method: str, answer: int) -> None:
    """If asking twice does no harm: HAProxy cannot know what the dead node did about a POST."""
    with clusters(folder, changes=(HOLDING, "", "")) as cluster:
        mine = sorted(homes(cluster)[0])
        stderr = cluster.nodes[0].process.stderr
        assert mine
        assert stderr
        with ThreadPoolExecutor(len(mine)) as clients:
            asked = [clients.submit(cluster.get, f"/{name}?hold", method) for name in mine]
            for _ in mine:
                assert stderr.readline() == "held\n"
            cluster.kill(0)
            answers = [each.result(GIVE_UP_S) for each in asked]
    assert [status for status, _ in answers] == [answer] * len(mine)
    if method == "GET":
        assert [body for _, body in answers] == [content(name) for name in mine]


def test_gclient_goes_on_at_another_node_with_what_was_cut(folder: Path, tmp_path: Path) -> None:
    (folder / "large").write_bytes(large := random.Random(1).randbytes(2 * PAUSES_AT + 1))
    with clusters(folder, changes=(PAUSING,) * 3) as cluster, ThreadPoolExecutor(1) as clients:
        there = ("127.0.0.1", str(cluster.port))
        fetched = clients.submit(gclient, *there, "get", "large", "-d", str(tmp_path), "--json")
        part = tmp_path / "large.part"
        wait_until(lambda: part.exists() and part.stat().st_size == PAUSES_AT)
        (home,) = (number for number in range(3) if cluster.nodes[number].names() == ["large"])
        cluster.kill(home)
        done = fetched.result(GIVE_UP_S)
        after = [node.names() for number, node in enumerate(cluster.nodes) if number != home]
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large").read_bytes() == large
    assert sorted(after) == [[], ["large"]]


def test_an_answer_that_has_begun_is_finished_by_a_node_that_stops(folder: Path) -> None:
    """A slow client's, of a file that fits into no buffer, while all others are served elsewhere."""
    size = sparse(folder / "huge", 64 << 20).stat().st_size
    with clusters(folder, "--cache", CACHE) as cluster:
        slow = HTTPConnection("127.0.0.1", cluster.port, timeout=GIVE_UP_S)
        slow.request("GET", "/huge")
        response = slow.getresponse()
        (home,) = (node for node in cluster.nodes if node.stats()["bypasses"])
        home.process.terminate()
        wait_until(lambda: refuses(home))
        ask_all(cluster, NAMES)
        assert home.process.poll() is None
        assert len(response.read()) == size
        slow.close()
        log = home.process.communicate(timeout=GIVE_UP_S)[1]
    assert home.process.returncode == 0
    assert "stopped, 0 transfers cut" in log


def test_a_node_that_hangs_is_left_alone_and_goes_on_with_what_it_was_asked(folder: Path) -> None:
    """Its kernel takes connections and requests, as it does for a node that is restarted behind a socket unit."""
    with clusters(folder) as cluster, ThreadPoolExecutor(100) as clients:
        name = min(homes(cluster)[0])
        cluster.nodes[0].process.send_signal(signal.SIGSTOP)
        asked: list[Future[tuple[int, bytes]]] = []

        def is_answered() -> bool:
            if len(asked) < 100:
                asked.append(clients.submit(cluster.get, f"/{name}"))
            return bool(wait(asked, timeout=0.3, return_when=FIRST_COMPLETED).done)

        try:
            wait_until(is_answered)
            assert name in {*cluster.nodes[1].names(), *cluster.nodes[2].names()}
        finally:
            cluster.nodes[0].process.send_signal(signal.SIGCONT)
        assert {each.result(GIVE_UP_S) for each in asked} == {(200, content(name))}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_under_load_clients_that_ask_again_have_everything(folder: Path, end: signal.Signals) -> None:
    """Those who never do see at most answers that are cut, and when a node is told to stop not even those."""
    with clusters(folder, "--cache", CACHE) as cluster, Load(cluster) as clients:
        clients.ask_for_everything()
        assert all(cluster.lists())
        node = cluster.nodes[1]
        node.process.send_signal(end)
        clients.whole.clear()
        clients.ask_for_everything()
        node.process.communicate(timeout=GIVE_UP_S)
        assert node.process.returncode == (0 if end == signal.SIGTERM else -end)
        cluster.restart(1)
        wait_until(lambda: bool(cluster.nodes[1].names()))
        clients.ask_for_everything()
    assert clients.lost == []
    assert clients.wrong == []
    assert end == signal.SIGKILL or clients.cut == []
    assert set(clients.whole) == set(NAMES)


class Load:
    """Clients that ask for NAMES, in turn and without end, and note how each answer ended. They do not ask again
    because of it, but because the name's turn comes. Leaving the `with` ends them."""

    def __init__(self, cluster: Cluster, clients: int = 6) -> None:
        self.whole: Counter[str] = Counter()
        self.cut: list[str] = []
        """The head came, and not all of the body."""
        self.lost: list[str] = []
        """No head came, or one that says that it went wrong."""
        self.wrong: list[str] = []
        self._port = cluster.port
        self._asked = [0] * clients
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(GIVE_UP_S)
            assert not thread.is_alive()

    def ask_for_everything(self) -> None:
        """Wait until each client has begun and ended with everything once more."""
        enough = [asked + 1 + len(NAMES) for asked in self._asked]
        wait_until(lambda: all(asked >= wanted for asked, wanted in zip(self._asked, enough, strict=True)))

    def _ask(self, number: int) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=GIVE_UP_S)
        first = number * len(NAMES) // len(self._threads)
        for name in islice(cycle(NAMES), first, None):
            if self._ends.is_set():
                break
            self._note(connection, name)
            self._asked[number] += 1
        connection.close()

    def _note(self, connection: HTTPConnection, name: str) -> None:
        try:
            connection.request("GET", f"/{name}")
            response = connection.getresponse()
        except (OSError, HTTPException):
            self.lost.append(name)
            connection.close()
            return
        try:
            body = response.read()
        except (OSError, HTTPException):
            self.cut.append(name)
            connection.close()
            return
        if response.status != 200:
            self.lost.append(name)
        elif body != content(name):
            self.wrong.append(name)
        else:
            self.whole[name] += 1


def refuses(node: Program) -> bool:
    """Whether nothing listens any more where the node did."""
    try:
        node.connect(timeout=GIVE_UP_S).close()
    except ConnectionRefusedError:
        return True
    return False
