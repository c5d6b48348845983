"""locust -f loadtest: clients that list the cache and fetch files, against any running gserver.

Names come from the server's own folder listings. It sees what a stranger sees: status, length, and that one ETag
always means the same bytes; it never imports the server.

    locust -f loadtest                                              web UI, http://127.0.0.1:8080 is the target
    locust -f loadtest --headless -u 50 -t 30s -H http://HOST:PORT
"""

import hashlib
import random
from urllib.parse import quote

from gevent.lock import Semaphore
from locust import FastHttpUser, between, events, task
from locust.env import Environment

WALK_MAX = 10_000
"""Files that are discovered at most: enough to overfill a cache."""

names: list[str] = []
discovering = Semaphore(1)
digests: dict[str, bytes] = {}
"""SHA-256 of the body that came with an ETag."""


class Client(FastHttpUser):
    """Fetches popular files again and again and now and then asks what the cache holds."""

    host = "http://127.0.0.1:8080"
    wait_time = between(0.0, 0.05)
    max_retries = 0
    default_headers = {"Accept-Encoding": "identity"}  # noqa: RUF012

    def on_start(self) -> None:
        """Discover what there is to fetch, once for all."""
        with discovering:
            if not names:
                names[:] = self.walk()

    def walk(self) -> list[str]:
        """Every file the server lists, folder by folder."""
        found: list[str] = []
        folders = ["/"]
        while folders and len(found) < WALK_MAX:
            folder = folders.pop()
            with self.client.get(
                folder, name="folder", headers={"Accept": "application/json"}, catch_response=True
            ) as answer:
                if answer.status_code != 200:
                    answer.failure(f"cannot list {folder}: status {answer.status_code} {answer.error or ''}")
                    continue
                if not answer.headers.get("Content-Type", "").startswith("application/json"):
                    continue  # a folder with an index.html shows that instead of its files
                for entry in answer.json()["entries"]:
                    path = folder + quote(entry["name"], safe="")
                    if entry["type"] == "folder":
                        folders.append(path + "/")
                    else:
                        found.append(path)
        return found

    @task(20)
    def fetch(self) -> None:
        """GET one file, low numbers more often, and check it."""
        if not names:
            return
        path = names[min(int(random.paretovariate(0.6)) - 1, len(names) - 1)]
        with self.client.get(path, name="GET file", catch_response=True) as answer:
            body = answer.content or b""
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code} {answer.error or ''}")
            elif len(body) != int(answer.headers["Content-Length"]):
                answer.failure("the body is short")
            elif digests.setdefault(path + answer.headers["ETag"], hashlib.sha256(body).digest()) != (
                hashlib.sha256(body).digest()
            ):
                answer.failure("other bytes under the same ETag")

    @task(1)
    def list_cache(self) -> None:
        """LIST: no name twice."""
        with self.client.get("/-/cache", name="LIST", catch_response=True) as answer:
            listed = (answer.text or "").splitlines()
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif len(listed) != len(set(listed)):
                answer.failure("a name is listed twice")


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: object) -> None:
    """A run in which anything failed, or nothing was fetched, does not end with 0."""
    total = environment.stats.total
    if total.num_failures or not digests:
        environment.process_exit_code = 1
