"""`python -m tests.stress`: one stress run, with a line of progress each ten seconds and a table at the end.

The exit code is 1 if something was wrong. The same `--seed` gives the same lies to the same
requests.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.mount.conftest import why_not
from tests.stress.run import Plan, Run
from tests.stress.world import Size, isolate

LARGE = Size(objects=4, chunks=24, length=96 * 1024)
SMALL = Size(objects=1, chunks=8, length=96 * 1024)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description="Stress a mount.")
    parser.add_argument("--seconds", type=float, default=120, help="of reading (default: 120)")
    parser.add_argument("--seed", type=int, default=1, help="of the lies (default: 1)")
    parser.add_argument("--readers", type=int, default=32)
    parser.add_argument("--neighbours", type=int, default=3, help="mounts that share the cache")
    parser.add_argument("--small", action="store_true", help="read little, as the sample does")
    given = parser.parse_args()
    if why_not():
        print(why_not(), file=sys.stderr)
        return 2
    # Who is told to end leaves no daemon behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = Plan(
        seconds=given.seconds,
        seed=given.seed,
        readers=given.readers,
        neighbours=given.neighbours,
        size=SMALL if given.small else LARGE,
        is_isolated=isolate(),
    )
    with tempfile.TemporaryDirectory(prefix="vzfs-stress-", ignore_cleanup_errors=True) as folder:
        report = Run(plan, Path(folder), lambda line: print(line, flush=True)).run()
    print(report)
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())
