"""The table of who may import whom: arrows point down, and a new arrow is a decision, not an accident."""

import ast
import sys
from pathlib import Path

import pytest

from tests.program import PROJECT

OURS = {
    "lrucache.policies.overlay": set(),
    "lrucache.policies.lru": {"lrucache.policies.overlay"},
    "lrucache.policies.relocate": {"lrucache.policies.overlay"},
    "lrucache.policies.sieve": {"lrucache.policies.overlay"},
    "lrucache.policies.s3fifo": {"lrucache.policies.overlay"},
    "lrucache.policies.gdsf": {"lrucache.policies.overlay"},
    "lrucache.policies": {
        "lrucache.policies.gdsf",
        "lrucache.policies.lru",
        "lrucache.policies.relocate",
        "lrucache.policies.s3fifo",
        "lrucache.policies.sieve",
    },
    "lrucache.replay": {"lrucache.policies"},
    "lrucache.bound": set(),
    "lrucache.ghosts": {"lrucache.cache", "lrucache.policies", "lrucache.replay"},
    "lrucache.cache": {"lrucache.policies"},
    "lrucache": {"lrucache.cache", "lrucache.policies"},
    "fileserver": set(),
    "fileserver.names": set(),
    "fileserver.wire": set(),
    "fileserver.dates": set(),
    "fileserver.heads": {"fileserver.dates"},
    "fileserver.process": set(),
    "fileserver.openat2": set(),
    "fileserver.positioned": {"lrucache"},
    "fileserver.root": {"lrucache", "fileserver.names", "fileserver.openat2", "fileserver.positioned"},
    "fileserver.objects": {"lrucache", "fileserver.names", "fileserver.root"},
    "fileserver.versions": {"fileserver.disk", "fileserver.root"},
    "fileserver.looks": {"fileserver.disk", "fileserver.root"},
    "fileserver.representation": {"fileserver.dates", "fileserver.root"},
    "fileserver.store": {
        "lrucache",
        "fileserver.disk",
        "fileserver.fills",
        "fileserver.looks",
        "fileserver.representation",
        "fileserver.root",
        "fileserver.versions",
    },
    "fileserver.turns": set(),
    "fileserver.threads": set(),
    "fileserver.bursts": set(),
    "fileserver.negotiation": {"fileserver.wire"},
    "fileserver.tokens": set(),
    "fileserver.tls": {"fileserver.pauses", "fileserver.transport"},
    "fileserver.whatif": {"lrucache", "lrucache.ghosts"},
    "fileserver.transport": set(),
    "fileserver.accesslog": {"fileserver.bursts", "fileserver.threads"},
    "fileserver.conditional": {"fileserver.dates", "fileserver.representation"},
    "fileserver.digests": {"lrucache", "fileserver.fills", "fileserver.store", "fileserver.turns"},
    "fileserver.precompressed": {"fileserver.negotiation", "fileserver.root", "fileserver.store"},
    "fileserver.replies": {
        "lrucache",
        "fileserver.heads",
        "fileserver.names",
        "fileserver.root",
        "fileserver.store",
    },
    "fileserver.files": {
        "lrucache",
        "fileserver.fills",
        "fileserver.conditional",
        "fileserver.digests",
        "fileserver.negotiation",
        "fileserver.precompressed",
        "fileserver.replies",
        "fileserver.representation",
        "fileserver.root",
        "fileserver.store",
        "fileserver.traffic",
        "fileserver.wire",
    },
    "fileserver.fastpath": {
        "lrucache",
        "fileserver.accesslog",
        "fileserver.heads",
        "fileserver.site",
        "fileserver.store",
        "fileserver.transport",
        "fileserver.wire",
    },
    "fileserver.latency": set(),
    "fileserver.rendering": set(),
    "fileserver.disk": {
        "lrucache",
        "fileserver.latency",
        "fileserver.root",
        "fileserver.threads",
        "fileserver.turns",
    },
    "fileserver.fills": {
        "lrucache",
        "fileserver.disk",
        "fileserver.latency",
        "fileserver.representation",
        "fileserver.root",
        "fileserver.versions",
        "fileserver.pauses",
    },
    "fileserver.listing": {"fileserver.names", "fileserver.rendering", "fileserver.root"},
    "fileserver.traffic": {"lrucache", "fileserver.latency", "fileserver.transport"},
    "fileserver.options": {"lrucache", "fileserver.tokens"},
    "fileserver.systemd": {"fileserver.bursts"},
    "fileserver.simulate": set(),
    "fileserver.simulate.traces": {"fileserver.names"},
    "fileserver.simulate.simulation": {
        "lrucache",
        "lrucache.bound",
        "lrucache.replay",
        "fileserver.simulate.traces",
    },
    "fileserver.simulate.plot": {"fileserver.rendering", "fileserver.simulate.simulation"},
    "fileserver.simulate.__main__": {
        "lrucache",
        "fileserver.options",
        "fileserver.rendering",
        "fileserver.simulate.plot",
        "fileserver.simulate.simulation",
        "fileserver.simulate.traces",
    },
    "fileserver.about": set(),
    "fileserver.about.lag": {"fileserver.bursts", "fileserver.latency"},
    "fileserver.about.documents": {"lrucache", "fileserver.rendering"},
    "fileserver.about.assets": set(),
    "fileserver.about.changes": {
        "fileserver.about.documents",
        "fileserver.longpages",
        "fileserver.names",
        "fileserver.negotiation",
        "fileserver.rendering",
        "fileserver.replies",
        "fileserver.root",
        "fileserver.store",
        "fileserver.warming",
        "fileserver.wire",
    },
    "fileserver.pauses": set(),
    "fileserver.longpages": {"fileserver.pauses", "fileserver.root", "fileserver.traffic", "fileserver.turns"},
    "fileserver.about.counters": {
        "lrucache",
        "fileserver.about.lag",
        "fileserver.accesslog",
        "fileserver.latency",
        "fileserver.process",
        "fileserver.store",
        "fileserver.traffic",
        "fileserver.turns",
    },
    "fileserver.about.metrics": {"lrucache", "fileserver.about.counters", "fileserver.latency"},
    "fileserver.about.live": {
        "fileserver.about.counters",
        "fileserver.about.documents",
        "fileserver.longpages",
        "fileserver.turns",
    },
    "fileserver.about.pages": {
        "lrucache",
        "fileserver.about.assets",
        "fileserver.about.counters",
        "fileserver.about.documents",
        "fileserver.about.live",
        "fileserver.longpages",
        "fileserver.negotiation",
        "fileserver.replies",
        "fileserver.root",
        "fileserver.turns",
        "fileserver.wire",
    },
    "fileserver.site": {
        "fileserver.about.changes",
        "fileserver.about.counters",
        "fileserver.about.pages",
        "fileserver.accesslog",
        "fileserver.bursts",
        "fileserver.files",
        "fileserver.heads",
        "fileserver.listing",
        "fileserver.longpages",
        "fileserver.names",
        "fileserver.negotiation",
        "fileserver.precompressed",
        "fileserver.replies",
        "fileserver.root",
        "fileserver.store",
        "fileserver.tokens",
        "fileserver.traffic",
        "fileserver.turns",
        "fileserver.warming",
        "fileserver.wire",
    },
    "fileserver.warming": {
        "lrucache",
        "fileserver.fills",
        "fileserver.names",
        "fileserver.pauses",
        "fileserver.rendering",
        "fileserver.root",
        "fileserver.store",
        "fileserver.turns",
    },
    "fileserver.connection": {
        "lrucache",
        "fileserver.accesslog",
        "fileserver.fastpath",
        "fileserver.heads",
        "fileserver.replies",
        "fileserver.root",
        "fileserver.site",
        "fileserver.store",
        "fileserver.traffic",
        "fileserver.transport",
        "fileserver.wire",
        "fileserver.pauses",
    },
    "fileserver.server": {
        "fileserver.bursts",
        "fileserver.connection",
        "fileserver.heads",
        "fileserver.site",
        "fileserver.transport",
    },
    "gserver": {
        "lrucache",
        "fileserver.about.counters",
        "fileserver.accesslog",
        "fileserver.disk",
        "fileserver.objects",
        "fileserver.options",
        "fileserver.precompressed",
        "fileserver.process",
        "fileserver.rendering",
        "fileserver.root",
        "fileserver.server",
        "fileserver.site",
        "fileserver.store",
        "fileserver.systemd",
        "fileserver.tls",
        "fileserver.tokens",
        "fileserver.transport",
        "fileserver.warming",
        "fileserver.whatif",
    },
    "gclient": set(),
    "loadtest": set(),
    "loadtest._corpus": set(),
    "loadtest._checks": set(),
    "loadtest._evidence": set(),
    "loadtest._options": {"loadtest._corpus"},
    "loadtest._process": set(),
    "loadtest._raw": set(),
    "loadtest._catalog": {"loadtest._corpus"},
    "loadtest._bodies": {"loadtest._catalog", "loadtest._checks", "loadtest._corpus", "loadtest._evidence"},
    "loadtest._invariants": {"loadtest._checks", "loadtest._evidence", "loadtest._process"},
    "loadtest._verdict": {"loadtest._checks", "loadtest._evidence"},
    "loadtest._report": {"loadtest._invariants", "loadtest._verdict"},
    "loadtest._run": {
        "loadtest._bodies",
        "loadtest._catalog",
        "loadtest._checks",
        "loadtest._corpus",
        "loadtest._evidence",
        "loadtest._raw",
    },
    "loadtest._visitor": {
        "loadtest._bodies",
        "loadtest._catalog",
        "loadtest._checks",
        "loadtest._evidence",
        "loadtest._raw",
        "loadtest._run",
    },
    "loadtest._users": {
        "loadtest._bodies",
        "loadtest._catalog",
        "loadtest._checks",
        "loadtest._corpus",
        "loadtest._evidence",
        "loadtest._raw",
        "loadtest._visitor",
    },
    "loadtest._raw_users": {
        "loadtest._bodies",
        "loadtest._catalog",
        "loadtest._checks",
        "loadtest._evidence",
        "loadtest._raw",
        "loadtest._visitor",
    },
    "loadtest._quiet": {
        "loadtest._catalog",
        "loadtest._evidence",
        "loadtest._invariants",
        "loadtest._process",
        "loadtest._raw",
        "loadtest._run",
    },
    "loadtest._watch": {
        "loadtest._checks",
        "loadtest._evidence",
        "loadtest._invariants",
        "loadtest._quiet",
        "loadtest._process",
        "loadtest._raw",
        "loadtest._report",
        "loadtest._run",
    },
    "loadtest._shapes": {"loadtest._run"},
    "loadtest._master": {
        "loadtest._evidence",
        "loadtest._report",
        "loadtest._run",
        "loadtest._shapes",
        "loadtest._verdict",
        "loadtest._watch",
    },
    "loadtest.locustfile": {
        "loadtest._master",
        "loadtest._options",
        "loadtest._raw_users",
        "loadtest._run",
        "loadtest._users",
        "loadtest._visitor",
    },
    "loadtest.__main__": {"loadtest._corpus"},
    "benchmarks": set(),
    "benchmarks.attackers": {"benchmarks.report", "lrucache", "lrucache.replay"},
    "benchmarks.cgroups": {"benchmarks.peers"},
    "benchmarks.clients": {"benchmarks.peers"},
    "benchmarks.command": {"benchmarks.peers"},
    "benchmarks.fills": {
        "benchmarks.clients",
        "benchmarks.command",
        "benchmarks.peers",
        "benchmarks.report",
        "benchmarks.workloads",
    },
    "benchmarks.downloads": {
        "benchmarks.clients",
        "benchmarks.command",
        "benchmarks.peers",
        "benchmarks.report",
        "benchmarks.rounds",
        "benchmarks.start",
        "benchmarks.workloads",
    },
    "benchmarks.footprint": {
        "benchmarks.clients",
        "benchmarks.command",
        "benchmarks.idle",
        "benchmarks.memory",
        "benchmarks.peers",
        "benchmarks.report",
        "benchmarks.start",
    },
    "benchmarks.hotpath": {
        "benchmarks.command",
        "benchmarks.load",
        "benchmarks.peers",
        "benchmarks.perf",
        "benchmarks.report",
        "benchmarks.rounds",
        "benchmarks.tables",
        "benchmarks.workloads",
    },
    "benchmarks.http": {
        "benchmarks.command",
        "benchmarks.load",
        "benchmarks.peers",
        "benchmarks.report",
        "benchmarks.rounds",
        "benchmarks.tables",
        "benchmarks.workloads",
    },
    "benchmarks.idle": {
        "benchmarks.clients",
        "benchmarks.load",
        "benchmarks.peers",
        "benchmarks.report",
        "benchmarks.workloads",
    },
    "benchmarks.load": {"benchmarks.peers", "benchmarks.report"},
    "benchmarks.memory": {"benchmarks.clients", "benchmarks.peers", "benchmarks.report", "benchmarks.workloads"},
    "benchmarks.peers": set(),
    "benchmarks.perf": {"benchmarks.peers"},
    "benchmarks.policies": {
        "benchmarks.command",
        "benchmarks.peers",
        "benchmarks.rounds",
        "benchmarks.variants",
        "benchmarks.workloads",
        "lrucache",
    },
    "benchmarks.haproxy": {"benchmarks.peers"},
    "benchmarks.cluster": {
        "benchmarks.clients",
        "benchmarks.command",
        "benchmarks.haproxy",
        "benchmarks.peers",
        "benchmarks.replay",
        "benchmarks.report",
        "benchmarks.rounds",
    },
    "benchmarks.dashboard": {
        "benchmarks.clients",
        "benchmarks.command",
        "benchmarks.peers",
        "benchmarks.rounds",
        "benchmarks.variants",
        "benchmarks.workloads",
    },
    "benchmarks.variants": {
        "benchmarks.command",
        "benchmarks.report",
        "benchmarks.rounds",
        "benchmarks.tables",
        "benchmarks.workloads",
    },
    "benchmarks.replay": {"benchmarks.clients"},
    "benchmarks.report": set(),
    "benchmarks.rounds": {"benchmarks.load", "benchmarks.peers", "benchmarks.tables", "benchmarks.workloads"},
    "benchmarks.samememory": {
        "benchmarks.cgroups",
        "benchmarks.clients",
        "benchmarks.command",
        "benchmarks.peers",
        "benchmarks.replay",
        "benchmarks.report",
        "benchmarks.traces",
        "fileserver.options",
        "lrucache",
    },
    "benchmarks.sampler": set(),
    "benchmarks.slow_clients": {
        "benchmarks.clients",
        "benchmarks.peers",
        "benchmarks.report",
        "benchmarks.slow_fuse",
    },
    "benchmarks.slow_fuse": {"benchmarks.peers"},
    "benchmarks.slowdisk": {
        "benchmarks.clients",
        "benchmarks.command",
        "benchmarks.peers",
        "benchmarks.report",
        "benchmarks.slow_clients",
        "benchmarks.slow_fuse",
    },
    "benchmarks.start": {"benchmarks.clients", "benchmarks.peers", "benchmarks.report", "benchmarks.workloads"},
    "benchmarks.tables": {"benchmarks.load", "benchmarks.report"},
    "benchmarks.traces": {"benchmarks.peers"},
    "benchmarks.workloads": {"benchmarks.load"},
}

OTHERS = {
    "fileserver.systemd": {"gevent"},
    "fileserver.options": {"gclient"},  # the version, for who asks
    "gserver": {"gevent", "httptools"},
    "lrucache.cache": {"gevent"},
    "fileserver.wire": {"httptools"},
    "fileserver.positioned": {"gevent"},  # only to reach past its monkey patch
    "fileserver.root": {"gevent"},  # the same
    "fileserver.objects": {"obstore"},
    "fileserver.disk": {"gevent"},
    "fileserver.looks": {"gevent"},
    "fileserver.fills": {"gevent"},
    "fileserver.store": {"gevent"},
    "fileserver.longpages": {"gevent"},
    "fileserver.pauses": {"gevent"},
    "fileserver.about.lag": {"gevent"},
    "fileserver.about.live": {"gevent"},
    "fileserver.about.pages": {"gevent"},
    "fileserver.about.metrics": {"prometheus_client"},
    "fileserver.accesslog": {"gevent"},
    "fileserver.server": {"gevent"},
    "fileserver.transport": {"gevent"},
    "fileserver.turns": {"gevent"},
    "fileserver.threads": {"gevent"},
    "fileserver.precompressed": {"gevent"},
    "fileserver.digests": {"gevent"},
    "fileserver.fastpath": {"gevent"},
    "fileserver.whatif": {"gevent"},
    "fileserver.warming": {"gevent"},
    "lrucache.bound": {"numpy"},
    "fileserver.simulate.__main__": {"tqdm"},
    "fileserver.simulate.plot": {"matplotlib"},
    "loadtest._options": {"locust"},
    "loadtest._run": {"gevent", "locust"},
    "loadtest._visitor": {"gevent", "locust"},
    "loadtest._users": {"locust"},
    "loadtest._raw_users": {"locust"},
    "loadtest._watch": {"gevent", "locust"},
    "loadtest._shapes": {"locust"},
    "loadtest._master": {"flask", "gevent", "locust"},  # flask makes Locust's web UI
    "loadtest.locustfile": {"gevent", "locust"},
    "benchmarks.fills": {"gevent"},
}
"""What is neither ours nor the standard library's."""

PURE = (
    "lrucache.policies",
    "lrucache.replay",
    "lrucache.bound",
    "lrucache.ghosts",
    "fileserver.simulate.simulation",
    "fileserver.about.documents",
    "fileserver.latency",
    "fileserver.listing",
    "fileserver.names",
    "fileserver.rendering",
    "fileserver.representation",
    "fileserver.conditional",
    "fileserver.dates",
    "fileserver.negotiation",
    "fileserver.replies",
    "fileserver.heads",
    "loadtest._checks",
    "loadtest._evidence",
    "loadtest._bodies",
    "loadtest._invariants",
    "loadtest._verdict",
    "loadtest._report",
)
IMPURE = {"os", "time", "socket", "threading", "io", "subprocess", "select", "selectors", "asyncio"}
ALLOWED_IN_PURE = {
    "fileserver.names": {"os"},  # os.name
    "fileserver.listing": {"time"},  # strftime
    "fileserver.dates": {"time"},  # the present century
    "fileserver.heads": {"time"},  # the Date line
}


PACKAGES = ("lrucache", "fileserver", "loadtest", "benchmarks")
ALONE = ("gserver", "gclient")


def modules() -> dict[str, Path]:
    found = {name: PROJECT / f"{name}.py" for name in ALONE}
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            found[".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Absolute module names; `from package import module` counts as the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) or {node.module}
    return found


@pytest.mark.parametrize("module", modules())
def test_a_room_imports_only_what_the_table_allows(module: str) -> None:
    known = modules()
    found = imports(known[module], known)
    top = {name.partition(".")[0] for name in found}
    assert {name for name in found if name.partition(".")[0] in PACKAGES} == OURS[module]
    foreign = {name for name in top if name not in sys.stdlib_module_names} - set(PACKAGES)
    assert foreign == OTHERS.get(module, set())


def test_the_table_lists_every_room_and_no_other() -> None:
    assert modules().keys() == OURS.keys()


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith(PURE)])
def test_a_pure_room_touches_no_system(module: str) -> None:
    known = modules()
    top = {name.partition(".")[0] for name in imports(known[module], known)}
    assert top & IMPURE <= ALLOWED_IN_PURE.get(module, set())


def test_arrows_point_down() -> None:
    """The table has no cycle, so there is an order in which every room stands on earlier ones."""
    standing: set[str] = set()
    while standing != OURS.keys():
        fits = {room for room, below in OURS.items() if room not in standing and below <= standing}
        assert fits, f"a cycle among {OURS.keys() - standing}"
        standing |= fits


def test_the_load_suite_never_imports_the_server() -> None:
    for path in (PROJECT / "loadtest").glob("*.py"):
        top = {name.partition(".")[0] for name in imports(path, {})}
        assert not top & {"gserver", "gclient", "lrucache", "fileserver"}
