"""`python -m tests.chaos`: the long form, called by `make chaos`.

Kills first, then power cuts, for each seed; the last line says whether anything was lost or done
twice. Exit code 1 if so.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # siblings are imported by name

from chaos import victim
from chaos.storm import Report, Storm, rage


def main() -> int:
    arguments = _arguments()
    # As Ctrl-C does: the service that is being tried must not outlive us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reports: list[Report] = []
    for storm in _storms(arguments):
        report = rage(storm, keep=arguments.keep)
        _say(str(report))
        reports.append(report)
    if not reports:
        _say("nothing was tried")
        return 2
    broken = [line for report in reports for line in report.violations]
    _say(f"{len(broken)} violations, see above" if broken else "0 lost, 0 twice")
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="for each seed; default: 200")
    parser.add_argument("--seeds", default="1,2,3", help="default: 1,2,3")
    parser.add_argument("--power-cuts", type=int, default=30, help="for each seed; default: 30")
    parser.add_argument("--keep", action="store_true", help="keep the folders of good storms, too")
    return parser.parse_args()


def _storms(arguments: argparse.Namespace) -> Iterator[Storm]:
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if arguments.kills:
        for seed in seeds:
            yield Storm(seed, arguments.kills, progress=_say)
    if not arguments.power_cuts:
        return
    with tempfile.TemporaryDirectory() as folder:
        why = victim.why_no_power_cut(Path(folder))
    if why is not None:
        _say(f"no power cuts: {why}")
        return
    for seed in seeds:
        yield Storm(seed, arguments.power_cuts, power_cut=True, progress=_say)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 (a command of its own)


if __name__ == "__main__":
    sys.exit(main())
