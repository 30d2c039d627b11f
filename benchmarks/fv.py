"""Measures the planner FV: its score and what stands beside it, the ablation, other networks, and how fast it plans.

    python benchmarks/fv.py               works off the queue; killed, the same command goes on
    python benchmarks/fv.py --list        what is done, what is to do
    python benchmarks/fv.py --only 'ablation-*-large-0' --jobs 2

Each job is one process of one thread that trains, evaluates and writes `benchmarks/results/fv/<job>.json`, from which
the documentation draws its figures and tables. Half-trained networks are kept in `runs/bench-fv`. A result that was
measured with other settings than the code now has is measured again.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from pathlib import Path

from measure.jobs import BUSY, Job, Queue, Store, written
from measure.planning import FULL, SMOKE, Scale, jobs

ROOT = Path(__file__).resolve().parents[1]
RESULTS, SCRATCH = ROOT / "benchmarks" / "results" / "fv", ROOT / "runs" / "bench-fv"
WATCHED = ("src", "benchmarks/fv.py", "benchmarks/measure")


def main() -> int:
    """See the module."""
    args = parsed()
    scale = SMOKE if args.smoke else FULL
    results = args.out or (ROOT / "runs" / "bench-fv-smoke" / "results" if args.smoke else RESULTS)
    scratch = args.scratch or (args.out / "scratch" if args.out else results.parent if args.smoke else SCRATCH)
    store = Store(results, scratch)
    if args.job:
        return work(next(job for job in jobs(scale) if job.name == args.job), store)
    chosen = [job for job in jobs(scale) if any(fnmatch.fnmatch(job.name, only) for only in args.only or ["*"])]
    if not chosen:
        print(f"no job is called like {' or '.join(args.only)}; --list names them", file=sys.stderr)
        return 2
    if args.list:
        return listed(chosen, store)
    return Queue(
        chosen, store, lambda job: command(job, store, scale), args.jobs, lambda line: print(line, flush=True)
    ).run()


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the planner FV, job by job.")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, of one thread each")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="jobs that are called like this; repeatable")
    parser.add_argument("--list", action="store_true", help="what is done, what is to do")
    parser.add_argument("--smoke", action="store_true", help="everything tiny, to see that it runs")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results go")
    parser.add_argument("--scratch", type=Path, metavar="FOLDER", help="where half-trained networks are kept")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


def listed(chosen: list[Job], store: Store) -> int:
    """A line a job."""
    for job in chosen:
        odd = store.odd(job)
        state = "to do" if odd is None else "done" if not odd else f"to do again: {'; '.join(odd)}"
        print(f"{job.name:48} {state}")
    return 0


def command(job: Job, store: Store, scale: Scale) -> list[str]:
    """This script, for one job."""
    words = [sys.executable, __file__, "--job", job.name, "--out", store.results, "--scratch", store.scratch]
    return [*map(str, words), *(["--smoke"] if scale is SMOKE else [])]


def work(job: Job, store: Store) -> int:
    """Does one job, unless another process is at it."""
    with store.held(job.name) as ours:
        if not ours:
            return BUSY
        if not store.done(job):
            written(store.file(job.name), {"job": job.name, "settings": job.settings, **measured(job, store)})
    return 0


def measured(job: Job, store: Store) -> dict[str, object]:
    """What a job finds, and where it comes from."""
    import torch
    from measure import exact, rates, trained

    from kedge.run.provenance import commit, machine, versions, when

    torch.set_num_threads(1)
    kinds = {
        "headline": trained.headline,
        "beside": trained.rows_beside,
        "curve": trained.curve,
        "exact": exact.exact,
        "rates-plans": rates.plans,
        "rates-mazes": rates.mazes,
        "rates-latency": rates.latency,
    }
    begun, code = when(), commit(WATCHED)  # the code that runs is what was there when it began
    found = kinds[job.settings["kind"]](job, store)
    return {
        "commit": code,
        "machine": machine(),
        "versions": versions(("kedge", "torch", "numpy", "mujoco", "gymnasium")),
        "begun": begun,
        "when": when(),
        **found,
    }


if __name__ == "__main__":
    sys.exit(main())
