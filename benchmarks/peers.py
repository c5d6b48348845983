"""Other file servers, and ours, each started over a folder with one worker and stopped again.

A room of its own because every benchmark needs them, configured in the same way: keep-alive without limits, no
access log, everything they write in a temporary folder. Linux only, for /proc. Use it as

    with serving("nginx sendfile", folder) as peer:
        ... peer.host, peer.port, peer.cpu_s() ...
"""

import ctypes
import getpass
import http.client
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).resolve().parent.parent

ENVIRONMENT = PROJECT / ".bench-venv"
"""Where the servers of benchmarks/requirements.txt are installed, if they are."""

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""The cores that this process was given at its start; a core in this package is a place in this list."""

SERVER_CORE, LOAD_CORE = 0, 1

GSERVER = PROJECT / "gserver.py"

HOST = "127.0.0.1"
BACKLOG = 4096
CONNECTIONS_MAX = 20_000
DESCRIPTORS_MAX = 131_072
"""Servers that keep 60,000 files open, or 20,000 connections, are not to fail for want of them."""

OPEN_FILES_MAX = 100_000

START_S = 20.0
"""Varnish compiles its configuration with a C compiler first."""

STOP_S = 5.0
"""What a server may take to stop before it is killed: nobody waits for its transfers."""

REST_S = 1.0
"""What a server may take to put away what it needs no more, before its memory is read."""

READY_PATH = "/.ready"
"""Asked for until there is an answer: no such file, so that nothing is cached."""

CPU_CLOCK = 2
"""CPUCLOCK_SCHED: nanoseconds that a process has run, as in glibc's clock_getcpuclockid."""

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG: what a process is sent when its parent is gone, as in prctl(2)."""

_libc = ctypes.CDLL(None)


class Missing(Exception):
    """Why a server cannot be had here, in a line: `lighttpd is not installed (Debian: lighttpd)`."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a server is to serve, and where: files of `folder` on `port`, its own files in `home`."""

    folder: Path
    home: Path
    port: int
    options: Sequence[str] = ()
    program: Sequence[str] = (str(GSERVER),)
    """What Python is to run as gserver, before its options."""
    behind: int = 0
    """The port of the server that this one stands in front of."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a server that stays in the foreground, and its version."""

    line: list[str]
    version: str


class Peer:
    """A running server. `serving` starts and stops it."""

    def __init__(self, name: str, version: str, port: int, started: Sequence[int]) -> None:
        self.name = name
        self.version = version
        self.host = HOST
        self.port = port
        self._started = started

    def pids(self) -> list[int]:
        """The processes that were started for it and all that descend from them."""
        return list(descendants(self._started))

    def cpu_s(self) -> float:
        """User and system seconds of all its processes so far, of those that ended too (these to 10 ms)."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def system_s(self) -> float:
        """How many of these seconds were the kernel's, to 10 ms."""
        ticks = sum(int(fields[12]) + int(fields[14]) for fields in map(_stat, self.pids()) if fields)
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Resident bytes of all its processes; what they share is counted in each."""
        return sum(_rss_bytes(pid) for pid in self.pids())


@contextmanager
def serving(
    kind: str,
    folder: Path,
    *,
    core: int | None = SERVER_CORE,
    options: Sequence[str] = (),
    program: Sequence[str] = (str(GSERVER),),
    enter: Callable[[], None] | None = None,
) -> Iterator[Peer]:
    """A server of one of KINDS over `folder`, from its first answer to the end of the `with`.

    `core` is its place in CORES (None, or only one core there: anywhere). `options` are for gserver's command
    line, and `program` is what Python runs as gserver, another checkout's for example; others ignore both.
    `enter` runs in the child before the server. Raises Missing where it cannot be started. Blocks; stops it by
    its process id, with all that it started.
    """
    with ExitStack() as stopping:
        home = Path(stopping.enter_context(TemporaryDirectory(prefix="gserver-bench-")))
        behind = None
        if kind == "varnish":
            behind = stopping.enter_context(serving("nginx sendfile", folder, core=core, enter=enter))
        place = Place(folder.resolve(), home, free_port(), options, program, behind.port if behind else 0)
        command = KINDS[kind](place)
        process = stopping.enter_context(_running(command, home, _in_child(core, enter)))
        _wait_until_it_answers(kind, process, place)
        started = [process.pid]
        version = command.version
        if behind:
            started += behind.pids()
            version += f" in front of nginx {behind.version}"
        yield Peer(kind, version, place.port, started)


def pin(core: int) -> None:
    """Let this process and what it starts from now on run on one of CORES only, if there are so many."""
    if core < len(CORES) > 1:
        os.sched_setaffinity(0, CORES[core : core + 1])


def free_port() -> int:
    """A TCP port on which nobody listened just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def descendants(roots: Sequence[int]) -> dict[int, int]:
    """Process ids with start times (in clock ticks), of these processes and all that descend from them."""
    parents, starts = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            parents[int(entry)], starts[int(entry)] = int(fields[1]), int(fields[19])
    found = [pid for pid in dict.fromkeys(roots) if pid in starts]
    for pid in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == pid and child not in found]
    return {pid: starts[pid] for pid in found}


def descriptor_limit() -> int:
    """How many descriptors a server gets. Raises the hard limit of this process, where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS_MAX:
        return DESCRIPTORS_MAX
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, DESCRIPTORS_MAX))
    except (OSError, ValueError):
        return hard
    return DESCRIPTORS_MAX


def installed(program: str, package: str) -> str:
    """The path of a program. Raises Missing, with the name of Debian's package."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{program} is not installed (Debian: {package})")
    return path


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    if not fields:
        return 0.0
    finished_s = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    try:
        return finished_s + time.clock_gettime((~pid << 3) | CPU_CLOCK)
    except OSError:  # ended meanwhile
        return finished_s


def _rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _in_child(core: int | None, enter: Callable[[], None] | None) -> Callable[[], None]:
    limit = descriptor_limit()

    def prepare() -> None:
        _libc.prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)  # a killed benchmark leaves no server behind
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        if core is None:
            os.sched_setaffinity(0, CORES)
        else:
            pin(core)
        if enter is not None:
            enter()

    return prepare


@contextmanager
def _running(command: Command, home: Path, prepare: Callable[[], None]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a session of its own so that Ctrl-C reaches it only through here; stopped at the end."""
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            command.line,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=home,
            env=os.environ | {"HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)},
            preexec_fn=prepare,  # noqa: PLW1509 - the benchmarks have one thread
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for what is left of it and its descendants after STOP_S."""
    family = descendants([process.pid])
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    for pid, start in family.items():
        if _runs(pid, start):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
    while any(_runs(pid, start) for pid, start in family.items()):
        time.sleep(0.001)


def _runs(pid: int, start: int) -> bool:
    """Whether the process that began at `start` (in clock ticks) still runs."""
    fields = _stat(pid)
    return bool(fields) and int(fields[19]) == start and fields[0] not in "XZ"


def _wait_until_it_answers(kind: str, process: subprocess.Popen[bytes], place: Place) -> None:
    """Until it speaks HTTP. Raises Missing, with its last words, if it ends or takes longer than START_S."""
    deadline_s = time.monotonic() + START_S
    while not _answers(place.port):
        if process.poll() is not None or time.monotonic() > deadline_s:
            words = (place.home / "output").read_text(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(words) if line.strip()), "it said nothing")
            raise Missing(f"{kind} does not start here: {last[:200]}")
        time.sleep(0.01)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", READY_PATH)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def version_of(*command: str) -> str:
    """The first thing that looks like a version in what a program says about itself."""
    said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    match = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
    return match[0] if match else "of unknown version"


def _nginx(place: Place, main: str, files: str) -> Command:
    """One worker; `main` and `files` are what its configurations differ in."""
    program = installed("nginx", "nginx")
    temporary = "".join(
        f"  {kind}_temp_path {place.home}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    configuration = place.home / "nginx.conf"
    configuration.write_text(f"""{user}{main}
daemon off;
worker_processes 1;
pid {place.home}/pid;
error_log stderr error;
events {{ worker_connections {CONNECTIONS_MAX}; }}
http {{
{temporary}
  access_log off;
  log_not_found off;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  open_file_cache max={min(OPEN_FILES_MAX, descriptor_limit() // 2)} inactive=1h;
  open_file_cache_errors on;
  {files}
  server {{ listen {HOST}:{place.port} backlog={BACKLOG}; root {place.folder}; }}
}}
""")
    line = [program, "-p", str(place.home), "-c", str(configuration), "-e", "stderr"]
    return Command(line, version_of(program, "-v"))


def _nginx_sendfile(place: Place) -> Command:
    return _nginx(place, "", "sendfile on; tcp_nopush on;")


def _nginx_copy(place: Place) -> Command:
    return _nginx(place, "", "sendfile off; output_buffers 2 1m;")


def _nginx_aio(place: Place) -> Command:
    return _nginx(
        place, "thread_pool default threads=64;", "sendfile off; output_buffers 2 1m; aio threads=default;"
    )


def _lighttpd(place: Place) -> Command:
    program = installed("lighttpd", "lighttpd")
    configuration = place.home / "lighttpd.conf"
    configuration.write_text(f"""
server.document-root = "{place.folder}"
server.bind = "{HOST}"
server.port = {place.port}
server.listen-backlog = {BACKLOG}
server.max-connections = {CONNECTIONS_MAX}
server.max-fds = {descriptor_limit()}
server.max-keep-alive-requests = 1000000000
server.max-keep-alive-idle = 3600
mimetype.assign = ("" => "application/octet-stream")
""")
    return Command([program, "-D", "-f", str(configuration)], version_of(program, "-v"))


def _h2o(place: Place) -> Command:
    program = installed("h2o", "h2o")
    user = f"user: {getpass.getuser()}\n" if os.geteuid() == 0 else ""
    configuration = place.home / "h2o.conf"
    configuration.write_text(f"""{user}listen:
  host: {HOST}
  port: {place.port}
num-threads: 1
max-connections: {CONNECTIONS_MAX}
http1-request-timeout: 3600
error-log: /dev/stderr
hosts:
  default:
    paths:
      /:
        file.dir: {place.folder}
""")
    return Command([program, "-m", "worker", "-c", str(configuration)], version_of(program, "-v"))


def _caddy(place: Place) -> Command:
    program = installed("caddy", "caddy")
    configuration = place.home / "Caddyfile"
    configuration.write_text(f"""{{
  admin off
  auto_https off
  log {{
    level ERROR
  }}
}}
http://{HOST}:{place.port} {{
  bind {HOST}
  root * {place.folder}
  file_server
}}
""")
    line = [program, "run", "--adapter", "caddyfile", "--config", str(configuration)]
    return Command(line, version_of(program, "version"))


def _varnish(place: Place) -> Command:
    program = installed("varnishd", "varnish")
    line = [program, "-F", "-n", str(place.home / "varnish"), "-j", "none"]
    line += ["-a", f"{HOST}:{place.port}", "-b", f"{HOST}:{place.behind}", "-T", "none"]
    line += ["-s", "malloc,64m", "-p", f"listen_depth={BACKLOG}", "-p", "timeout_idle=3600"]
    return Command(line, version_of(program, "-V"))


AIOHTTP = """
import sys
import uvloop
from aiohttp import web
host, port, folder, backlog = sys.argv[1:]
application = web.Application()
application.router.add_static("/", folder)
web.run_app(application, host=host, port=int(port), backlog=int(backlog), access_log=None, print=None,
            keepalive_timeout=3600, loop=uvloop.new_event_loop())
"""

STARLETTE = """
import sys
import uvicorn
from starlette.staticfiles import StaticFiles
host, port, folder, backlog = sys.argv[1:]
uvicorn.run(StaticFiles(directory=folder), host=host, port=int(port), backlog=int(backlog), access_log=False,
            log_level="error", lifespan="off", timeout_keep_alive=3600, loop="uvloop", http="httptools")
"""


def _python(place: Place, program: str, *packages: str) -> Command:
    """A server of benchmarks/requirements.txt; its version is that of its packages."""
    python = ENVIRONMENT / "bin" / "python"
    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    try:
        answer = subprocess.run(
            [python, "-c", ask, *packages], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        raise Missing(
            f"{packages[0]} is not installed (PyPI: benchmarks/requirements.txt in {ENVIRONMENT.name}/)"
        ) from None
    own, *below = answer.stdout.split()
    version = ", ".join([own, *(f"{name} {each}" for name, each in zip(packages[1:], below, strict=True))])
    return Command([str(python), "-c", program, HOST, str(place.port), str(place.folder), str(BACKLOG)], version)


def _aiohttp(place: Place) -> Command:
    return _python(place, AIOHTTP, "aiohttp", "uvloop")


def _starlette(place: Place) -> Command:
    return _python(place, STARLETTE, "starlette", "uvicorn", "uvloop")


def _gserver(place: Place) -> Command:
    line = [sys.executable, *place.program, "--log-level", "warning", *place.options]
    return Command([*line, str(place.port), str(place.folder)], _gserver_version(Path(place.program[-1]).parent))


def _gserver_version(checkout: Path) -> str:
    """Its number, the commit where there is one, and what it runs on."""
    number = "of unknown number"
    with suppress(OSError):
        found = re.search(r'^__version__ = "(.+)"', (checkout / "gclient.py").read_text(), re.MULTILINE)
        number = found[1] if found else number
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=checkout, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "no commit"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{number} ({commit}; Python {python}, gevent {metadata.version('gevent')})"


KINDS: dict[str, Callable[[Place], Command]] = {
    "nginx sendfile": _nginx_sendfile,
    "nginx copy": _nginx_copy,
    "nginx aio": _nginx_aio,
    "lighttpd": _lighttpd,
    "h2o": _h2o,
    "caddy": _caddy,
    "varnish": _varnish,
    "aiohttp": _aiohttp,
    "starlette": _starlette,
    "gserver": _gserver,
}
"""Every server there is, and what starts it."""
