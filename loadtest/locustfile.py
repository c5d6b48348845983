"""locust -f loadtest: concurrent LIST and GET that overfill the cache, and a verdict: exit code 0 or 1.

    locust -f loadtest                                   web UI at http://localhost:8089, against 127.0.0.1:8080
    locust -f loadtest --headless -u 50 -t 30s -H URL    any running gserver, over any folder
    locust -f loadtest --headless --shape pressure --corpus DIR --pid PID
    make load                                            corpus, server, pressure, verdict

What Locust loads is here; the users are in `_users` and `_raw_users`, what they look at in `_checks`.
"""

import signal
import sys
from pathlib import Path
from typing import Any

import gevent
from locust import User, events
from locust.env import Environment
from locust.runners import Runner, WorkerRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest import _options
from loadtest._master import Master
from loadtest._raw_users import OneLiner, SlowReader, Stampede, Stranger
from loadtest._run import Run
from loadtest._users import Lister, Publisher, Reader, Resumer, Scanner
from loadtest._visitor import Guest

__all__ = ["Lister", "OneLiner", "Publisher", "Reader", "Resumer", "Scanner", "SlowReader", "Stampede", "Stranger"]

events.init_command_line_parser.add_listener(_options.add)


@events.init.add_listener
def prepare(environment: Environment, runner: Runner, **_: object) -> None:
    """Once in each process: users get their run; the master watches and judges, workers report."""
    options: Any = environment.parsed_options
    ends = [signal.SIGINT]  # which would end some user instead
    if options.headless and options.shape != "none":
        ends.append(signal.SIGTERM)  # which Locust looks for only when the shape has come to its end
    for end in ends:
        gevent.signal_handler(end, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)
    Guest.test = run = Run(environment)
    keep_tagged(environment)
    if isinstance(runner, WorkerRunner):
        environment.events.test_start.add_listener(lambda **_: run.begin())
        environment.events.report_to_master.add_listener(
            lambda client_id, data, **_: data.update(loadtest=run.evidence.take())
        )
        environment.events.quitting.add_listener(lambda **_: last_words(environment, runner))
    else:
        Master(run, environment, runner).listen()


def last_words(environment: Environment, runner: WorkerRunner) -> None:
    """A worker that ends by itself (Ctrl-C is for all processes of a terminal) first says what its users saw."""
    runner.stop()
    data: dict[str, Any] = {}
    environment.events.report_to_master.fire(client_id=runner.client_id, data=data)
    runner.send_message("stats", data)


def tags_of(user: type[User]) -> set[str]:
    """The tags of a class's tasks."""
    return set().union(*(getattr(task, "locust_tag_set", ()) for task in user.tasks))


def keep_tagged(environment: Environment) -> None:
    """Only the classes that --tags and --exclude-tags leave tasks: Locust starts the others all the same."""
    options: Any = environment.parsed_options
    wanted, unwanted = set(options.tags or ()), set(options.exclude_tags or ())
    available: Any = environment.available_user_classes
    known = set().union(*map(tags_of, available.values()))
    if strange := (wanted | unwanted) - known:
        sys.exit(f"no users are tagged {', '.join(sorted(strange))}; tags are {', '.join(sorted(known))}")
    left = []
    for user in environment.user_classes:
        tags = tags_of(user)
        if (not wanted or tags & wanted) and not tags & unwanted:
            left.append(user)
    if not left:
        sys.exit("--tags and --exclude-tags leave no users")
    environment.user_classes[:] = left
