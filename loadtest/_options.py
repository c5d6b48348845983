"""Options of the suite, beside Locust's own; on the command line, in the configuration file and in the web UI."""

from argparse import ArgumentTypeError

from locust.argument_parser import LocustArgumentParser

from loadtest._corpus import size_argument

SHAPES = ("none", "pressure", "soak", "step", "relocate-worst")


class Size(str):
    """A size as it was written; empty for none. A type: the web UI calls that of the old value."""

    def __new__(cls, text: str) -> "Size":
        if text:
            size_argument(text)
        return super().__new__(cls, text)


class Shape(str):
    """The name of a shape, for the same reason."""

    def __new__(cls, text: str) -> "Shape":
        if text not in SHAPES:
            raise ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(map(repr, SHAPES))})")
        return super().__new__(cls, text)


def add(parser: LocustArgumentParser) -> None:
    """Listener of `init_command_line_parser`. No group: the web UI shows none of its options."""
    parser.add_argument(
        "--shape",
        type=Shape,
        choices=SHAPES,
        default="none",
        help="pressure: two minutes of everything; soak: the same users for --minutes; step: twice the users "
        "until p99 is above --p99-ms; relocate-worst: one hot large file among growing newcomers; "
        "none: -u, -r and -t",
    )
    parser.add_argument(
        "--corpus",
        default="",
        metavar="DIR",
        help="the folder that the server serves, on this machine (made by _corpus)",
    )
    parser.add_argument(
        "--capacity",
        type=Size,
        default="",
        help="bytes the cache may hold, as 64MiB (default: what the server says)",
    )
    parser.add_argument(
        "--revalidate",
        type=float,
        default=1.0,
        help="the server's --revalidate: seconds an old version may be served",
    )
    parser.add_argument(
        "--pid", type=int, default=0, help="the server's process on this machine: look at it in /proc"
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=120,
        help="length of the shape pressure; relocate-worst takes a quarter of it",
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the shape soak")
    parser.add_argument("--p99-ms", type=float, default=50.0, help="where the shape step ends")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first check that does not hold")
    parser.add_argument(
        "--report",
        default="loadtest-report.html",
        metavar="FILE",
        help="plots over time, and the verdict; empty: none",
    )
