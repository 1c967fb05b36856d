"""The price of being recorded.

usage: bench.py [--short]

Each load runs bare, under the hook and under torch.profiler in turn, so that whatever else the machine does falls on all
alike; a figure is the median of the paired differences or ratios, with the span of the middle half of them in brackets.
A figure is printed, never a reason to fail.  On a machine that does other things too, the CPU time says more than the clock.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import harness  # noqa: E402  (found only with the path above)

VERSION = harness.VERSIONS[0]


def load(folder, variant, *args):
    """One run of load.py; what it says, and seconds from its own last line until the recorder has left."""
    words = [harness.python_of(VERSION), HERE / "load.py", *args] + (["profile"] if variant == "profiler" else [])
    done = harness.run(words, folder, preload=(harness.HOOK,) if variant == "ours" else (), timeout=900)
    ended = time.monotonic_ns()
    if variant == "ours":
        while harness.recorders_of(done.pid):
            time.sleep(0.002)
            ended = time.monotonic_ns()
    said = json.loads(done.out)
    said["closing_s"] = (ended - said["end"]) / 1e9
    return said


def spread(values):
    """Median and the quartiles on either side."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return middle, low, high


def show(what, values, unit, goal=""):
    middle, low, high = spread(values)
    print(f"  {what:<58} {middle:9.2f} {unit}  [{low:.2f} .. {high:.2f}]  {goal}", flush=True)


def rounds(folder, nr_rounds, *args, variants=("bare", "ours", "profiler")):
    """{variant: [what load.py said, a round each]}, the variants taking turns at going first."""
    result = {variant: [] for variant in variants}
    for number in range(nr_rounds):
        shift = number % len(variants)
        for variant in variants[shift:] + variants[:shift]:
            result[variant].append(load(folder, variant, *args))
    return result


def pairs(result, variant, combine, what="ns"):
    return [combine(one[what], bare[what]) for one, bare in zip(result[variant], result["bare"])]


def start_up(command, nr_rounds, folder):
    """ms that the hook adds to a process that never imports torch."""
    added = []
    environments = [harness.environment(()), harness.environment((harness.HOOK,))]
    for _ in range(nr_rounds):
        times = []
        for env in environments:
            start = time.perf_counter_ns()
            subprocess.run(command, env=env, cwd=folder, check=True, stdin=subprocess.DEVNULL)
            times.append(time.perf_counter_ns() - start)
        added.append((times[1] - times[0]) / 1e6)
    return added


def main():
    short = "--short" in sys.argv[1:]
    nr_rounds = 2 if short else 7
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        print(f"PyTorch {VERSION}, {nr_rounds} rounds, one thread; medians of paired figures [middle half]")

        print("one thread allocating and freeing a small tensor")
        result = rounds(folder, nr_rounds, "allocations", 20_000 if short else 300_000)
        show("bare, an event", [one["ns"] for one in result["bare"]], "ns")
        show("added by nnmem, an event", pairs(result, "ours", lambda a, b: a - b), "ns", "goal: 150")
        show("  in CPU time of the thread", pairs(result, "ours", lambda a, b: a - b, "cpu_ns"), "ns")
        show("added by torch.profiler, an event", pairs(result, "profiler", lambda a, b: a - b), "ns")

        for net, title, steps, goal in (
            ("E2", "E2, batch 64", 3 if short else 20, "goal: 2"),
            ("transformer", "small-tensor transformer", 5 if short else 100, "goal: 10"),
        ):
            print(f"{title}: a training step")
            result = rounds(folder, nr_rounds, net, steps)
            show("bare", [one["ns"] / 1e6 for one in result["bare"]], "ms")
            show("added by nnmem", pairs(result, "ours", lambda a, b: 100 * (a / b - 1)), "% ", goal)
            show("  in CPU time of the thread", pairs(result, "ours", lambda a, b: 100 * (a / b - 1), "cpu_ns"), "% ")
            show("added by torch.profiler", pairs(result, "profiler", lambda a, b: 100 * (a / b - 1)), "% ")

        steps = 10 if short else 410
        result = rounds(folder, 1 if short else 3, "transformer", steps, variants=("bare", "ours"))
        events = harness.Db(folder / "run.db").run()["events"]
        print(f"a run of {events:,} events")
        show("from the script's last line until a bare process has ended", [one["closing_s"] for one in result["bare"]], "s ")
        show("later, the run file is closed", pairs(result, "ours", lambda a, b: a - b, "closing_s"), "s ", "goal: 1")
        times = []
        for _ in range(nr_rounds):
            start = time.perf_counter()
            harness.report("run.db", folder=folder)
            times.append(time.perf_counter() - start)
        show("nnmem-report's summary", times, "s ", "goal: 0.5")
        show("size of run.db", [(folder / "run.db").stat().st_size / 1e6], "MB")

        print("a process that never imports torch")
        show("added to /bin/true", start_up(["/bin/true"], 5 if short else 200, folder), "ms", "goal: 1")
        show("added to python -c pass", start_up([harness.python_of(VERSION), "-c", "pass"], 5 if short else 60, folder), "ms", "goal: 1")


main()
