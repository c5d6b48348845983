"""Native threads that run from the beginning.

gevent starts a pool's threads on demand, and so fails when the system has no more of them in the middle of
somebody's request. Here that is known at the start.
"""

import errno
import logging

from gevent.threadpool import ThreadPool

log = logging.getLogger("gserver")


def started(threads: int) -> ThreadPool:
    """A pool with its threads running; with a warning fewer, and OSError when there is not even one.

    The caller ends them with `kill`, which waits for what they are doing.
    """
    pool = ThreadPool(threads)
    try:
        pool.size = threads
    except RuntimeError as error:
        if not pool.size:
            raise OSError(errno.EAGAIN, "no thread can be started") from error
        pool.maxsize = pool.size
        log.warning("only %d of %d threads could be started", pool.size, threads)
    return pool
