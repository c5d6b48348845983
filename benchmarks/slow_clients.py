"""Who asks a server over slow storage: one client of a hot file, and readers of cold ones that come one by one.

Each kind runs in a process of its own, so that neither disturbs the other's clock: it connects, says through a
pipe that it is ready, starts at the moment it is told, and sends what it saw when its time is over. Nobody waits
longer than that for anything.
"""

import asyncio
import itertools
import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.clients import Client, Refused, body_length, request
from benchmarks.peers import HOST, SERVER_CORE, pin
from benchmarks.report import percentile
from benchmarks.slow_fuse import COLD, FILE_BYTES, HOT, go_first

READERS = 50
SPREAD_S = 0.2
"""In which the readers begin, one after another: strangers do not ask all at the same instant."""

HOT_EVERY_S = 0.005
WARM_UP = 50
"""Requests for the hot file before any counts: the server has it in memory."""

PATIENCE_S = 20.0
"""What connecting and warming up may take, or reporting when the time is over."""
START_S = 0.1
"""From the word to start until the start, so that all clients have it by then."""

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Hot:
    """What the client of the hot file saw, from the moments at which its requests were due.

    Those that were not answered count with what they had waited when the time was over.
    """

    waited_s: list[float]
    answered: int
    went_first: bool
    """Whether the system let it run before the other processes of its core."""

    def milliseconds(self) -> tuple[float, float, float]:
        """Median, 99th percentile and longest."""
        p50, p99, longest = (1000 * percentile(self.waited_s, percent) for percent in (50, 99, 100))
        return p50, p99, longest


def measure_hot(port: int, seconds: float) -> Hot:
    """The client of the hot file alone. Raises Refused; blocks for `seconds` and its start."""
    with client(ask_for_hot, port, seconds) as hot:
        (saw,) = together(seconds, hot)
    return saw  # type: ignore[no-any-return]


def measure_both(hot_port: int, cold_port: int, seconds: float) -> tuple[Hot, float]:
    """The same beside READERS of cold files, and how many files a second these read. Raises Refused; blocks."""
    with client(ask_for_hot, hot_port, seconds) as hot, client(ask_for_cold, cold_port, seconds) as cold:
        saw, files = together(seconds, hot, cold)
    return saw, files / seconds


def measure_without_server(folder: Path, seconds: float) -> float:
    """Files a second that READERS threads on the servers' core read from `folder`. Raises Refused; blocks."""
    with client(read_directly, folder, seconds) as cold:
        (files,) = together(seconds, cold)
    return files / seconds  # type: ignore[no-any-return]


@contextmanager
def client(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """`work(pipe, *arguments)` in a process of its own, and the other end of the pipe. It ends with the `with`."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=reporting, args=(work, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def reporting(work: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    """Do the work; what goes wrong goes through the pipe too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end decides
    try:
        work(pipe, *arguments)
    except (Refused, OSError, EOFError) as problem:
        pipe.send(Refused(str(problem) or type(problem).__name__))


def together(seconds: float, *pipes: Connection) -> list[Any]:
    """Let all clients start at the same moment; what they saw. Raises Refused."""
    for pipe in pipes:
        said(pipe, PATIENCE_S)
    start_s = time.monotonic() + START_S
    for pipe in pipes:
        pipe.send(start_s)
    return [said(pipe, START_S + seconds + PATIENCE_S) for pipe in pipes]


def said(pipe: Connection, timeout_s: float) -> Any:
    """What a client sends next. Raises Refused, also when that is nothing."""
    try:
        if not pipe.poll(timeout_s):
            raise Refused("a client said nothing in time")
        answer = pipe.recv()
    except EOFError:
        raise Refused("a client died") from None
    if isinstance(answer, Refused):
        raise answer
    return answer


def wait_for_start(pipe: Connection) -> float:
    """Say that all is ready; the time.monotonic, which all processes share, at which to start."""
    pipe.send("ready")
    start_s: float = pipe.recv()
    return start_s


# The hot file.


def ask_for_hot(pipe: Connection, port: int, seconds: float) -> None:
    """Ask every HOT_EVERY_S on one connection; a late answer delays the next request's sending, not its clock."""
    went_first = go_first(2)
    with socket.create_connection((HOST, port), timeout=PATIENCE_S) as server:
        client = Client(server)
        for _ in range(WARM_UP):
            fetch_hot(client)
        start_s = wait_for_start(pipe)
        end_s = start_s + seconds
        due_s = [start_s + number * HOT_EVERY_S for number in range(round(seconds / HOT_EVERY_S))]
        waited_s: list[float] = []
        with suppress(TimeoutError):
            for one_s in due_s:
                time.sleep(max(0.0, one_s - time.monotonic()))
                server.settimeout(max(0.001, end_s - time.monotonic()))
                fetch_hot(client)
                waited_s.append(time.monotonic() - one_s)
    answered = len(waited_s)
    pipe.send(Hot(waited_s + [end_s - one_s for one_s in due_s[answered:]], answered, went_first))


def fetch_hot(client: Client) -> None:
    """One request and its whole answer. Raises Refused; TimeoutError when nothing comes in the socket's time."""
    client.ask(HOT)
    check(client.answer())


def check(length: int) -> None:
    """Raises Refused unless a whole file came: who does not know its own name may say 200 and nothing."""
    if length != FILE_BYTES:
        raise Refused(f"it sent {length} bytes and not {FILE_BYTES}")


# Cold files.


def ask_for_cold(pipe: Connection, port: int, seconds: float) -> None:
    """READERS connections that ask for one cold file after another; how many came whole in time."""
    pipe.send(asyncio.run(read_through(pipe, port, seconds)))


async def read_through(pipe: Connection, port: int, seconds: float) -> int:
    """The same as a coroutine; it lets nothing else run until it starts. Raises Refused."""
    numbers, whole = itertools.count(), itertools.count()
    connections = [await asyncio.open_connection(HOST, port) for _ in range(READERS)]
    start_s = wait_for_start(pipe)

    async def read(place: int, answers: asyncio.StreamReader, requests: asyncio.StreamWriter) -> None:
        await asyncio.sleep(start_s + place * SPREAD_S / READERS - time.monotonic())
        while True:
            requests.write(request(COLD.format(next(numbers))))
            check(body_length(await answers.readuntil(b"\r\n\r\n")))
            await answers.readexactly(FILE_BYTES)
            next(whole)

    readers = [asyncio.create_task(read(place, *streams)) for place, streams in enumerate(connections)]
    timeout_s = start_s + seconds - time.monotonic()
    ended, _ = await asyncio.wait(readers, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
    for reader in readers:
        reader.cancel()
    for reader in ended:
        reader.result()
    return next(whole)


def read_directly(pipe: Connection, folder: Path, seconds: float) -> None:
    """READERS threads, without a server but on its core; how many files they read in time."""
    pin(SERVER_CORE)
    numbers, whole = itertools.count(), itertools.count()
    start_s = wait_for_start(pipe)
    end_s = start_s + seconds

    def read(place: int) -> None:
        time.sleep(max(0.0, start_s + place * SPREAD_S / READERS - time.monotonic()))
        while time.monotonic() < end_s:
            content = (folder / COLD.format(next(numbers))).read_bytes()
            if len(content) == FILE_BYTES and time.monotonic() < end_s:
                next(whole)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(next(whole))
