"""The process that judges, Locust's master or the only one: a test has a watch, and ends with a verdict."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from flask import Response, request
from locust.env import Environment
from locust.runners import (
    STATE_CLEANUP,
    STATE_INIT,
    STATE_STOPPED,
    STATE_STOPPING,
    WORKER_REPORT_INTERVAL,
    MasterRunner,
    Runner,
)
from locust.web import WebUI

from loadtest import _report
from loadtest._evidence import BYPASS, MISS
from loadtest._run import Run
from loadtest._shapes import CLASSES, Plan
from loadtest._verdict import Verdict, judge
from loadtest._watch import Watch

TAB = "verdict"
LAST_REPORTS_S = 3 * WORKER_REPORT_INTERVAL
"""How long workers have to report what their last users saw."""


class Master:
    """Listens to Locust's events. The exit code is 1 until a verdict says otherwise."""

    def __init__(self, run: Run, environment: Environment, runner: Runner) -> None:
        self.run = run
        self.environment = environment
        self.runner = runner
        self.verdict = Verdict(())
        self._reports: dict[str, int] = {}
        self._stopping = self._said = False
        self._judged = True
        self._report_to = run.options.report
        """As it was on the command line: who can reach the web UI must not write files."""
        environment.process_exit_code = 1
        self.plan = Plan(run)
        self.plan.runner = runner
        self.watch = Watch(run, lambda: self.plan.phase)
        if environment.web_ui or run.options.shape != "none":
            environment.shape_class = self.plan
        if environment.web_ui:
            environment.available_shape_classes = {"Plan": self.plan}  # for --class-picker
            self._add_tab(environment.web_ui)

    def listen(self) -> None:
        """Be told of what happens."""
        events = self.environment.events
        events.test_start.add_listener(self.starts)
        events.test_stopping.add_listener(self.stops)
        events.test_stop.add_listener(self.judges)
        events.quitting.add_listener(self.quits)
        events.quit.add_listener(self.says)
        events.worker_report.add_listener(self.is_told)
        self.run.evidence.on_broken = self.is_broken

    def starts(self, **_: object) -> None:
        """A test begins, and nothing is proved yet."""
        self.environment.process_exit_code = 1
        self.verdict = Verdict(())
        self._stopping = self._judged = self._said = False
        self.run.begin()
        self.watch.begin()

    def is_told(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        """A worker reports."""
        if "loadtest" in data:
            self.run.evidence.add(data["loadtest"])
            self._reports[client_id] = self._reports.get(client_id, 0) + 1

    def is_broken(self) -> None:
        """With --fail-fast, one is enough."""
        if self.run.options.fail_fast and not self._stopping:
            self._stopping = True
            end = self.runner.quit if self.run.options.headless else self.runner.stop
            gevent.spawn(end)

    def stops(self, **_: object) -> None:
        """Before workers are told to go, their users are, so that the last reports say all they saw."""
        self._stopping = self.plan.over = True
        runner = self.runner
        if not isinstance(runner, MasterRunner) or not runner.worker_count:
            return
        runner.start(0, 100)
        expected = {client: self._reports.get(client, 0) + 2 for client in runner.clients}
        deadline_s = time.monotonic() + LAST_REPORTS_S
        while time.monotonic() < deadline_s:
            left = runner.clients.keys() & expected.keys()
            if all(self._reports.get(client, 0) >= expected[client] for client in left):
                return
            gevent.sleep(0.1)

    def judges(self, **_: object) -> None:
        """The users have left: look at what they left, and say what it comes to."""
        if self._judged:  # when the last worker leaves while the master stops, Locust stops twice
            return
        self._judged = True
        self.watch.end()
        stats = self.runner.stats
        self.verdict = judge(
            self.run.evidence, self._classes(), stats.total.num_failures, len(self.runner.exceptions)
        )
        self.environment.process_exit_code = self.verdict.exit_code
        if path := self._report_to:
            try:
                Path(path).write_text(self.page(), "utf-8")
            except OSError as error:
                self.environment.process_exit_code = 1
                print(f"loadtest: no report: {error}", file=sys.stderr)
        if not self.run.options.headless:
            self.says()

    def says(self, **_: object) -> None:
        """The summary, on standard output, once for each test."""
        if self._said:
            return
        self._said = True
        print(self.verdict, *self.notes(), sep="\n", flush=True)

    def quits(self, **_: object) -> None:
        """Ctrl-C or SIGTERM in the middle of a test ends that first."""
        over = (STATE_INIT, STATE_STOPPED, STATE_STOPPING, STATE_CLEANUP)
        if self.runner.state not in over:
            self.runner.quit()

    def notes(self) -> list[str]:
        """What the shape has to say."""
        hot = self.run.evidence.hot
        if not hot:
            return self.plan.notes
        missed = hot[MISS] + hot[BYPASS]
        return [f"the hot file was asked for {hot.total():,} times, and read anew {missed:,} times"]

    def page(self) -> str:
        """The report as it stands."""
        return _report.page(self.verdict, self.watch.samples, self.run.capacity(), self.notes())

    def _classes(self) -> set[str]:
        return {user.__name__ for user in self.plan.classes(CLASSES[self.run.options.shape])}

    def _add_tab(self, web_ui: WebUI) -> None:
        """A tab with the checks as they stand, and the report at /loadtest-report."""
        web_ui.template_args |= {
            "extendedTabs": [{"title": "Verdict", "key": TAB}],
            "extendedTables": [
                {
                    "key": TAB,
                    "structure": [
                        {"key": "state", "title": "State"},
                        {"key": "name", "title": "Check"},
                        {"key": "detail", "title": "What was seen"},
                    ],
                }
            ],
        }
        if web_ui.app:
            web_ui.app.add_url_rule("/loadtest-report", "loadtest_report", self.page)
            web_ui.app.after_request(self._extend)

    def _extend(self, response: Response) -> Response:
        """Put the lines into the numbers that the page polls."""
        if request.path.endswith("/stats/requests") and response.status_code == 200:
            stats = self.runner.stats.total
            now = judge(self.run.evidence, self._classes(), stats.num_failures, 0)
            lines = [{"state": line.state.value, "name": line.name, "detail": line.detail} for line in now.lines]
            document = {**response.get_json(), "extended_stats": [{"key": TAB, "data": lines}]}
            response.set_data(json.dumps(document))
        return response
