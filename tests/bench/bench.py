"""The price of being recorded.

usage: bench.py [--short]

Each load runs in one process for each variant: bare, under the hook (as it is by default, and with NNMEM_STACKS=off and both) and under
torch.profiler.
They live side by side and take turns, a fraction of a second each, so that whatever else the machine does falls on all
alike.  What luck each process had with its memory's layout stays with it, so this is done again with new processes
several times.  A set of processes gives one figure, the median over its turns of the difference (or ratio) to the bare
process; printed are the median over all sets, its standard error, and the middle half of the sets.
A figure is printed, never a reason to fail.
"""

import json
import math
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
# What is run beside the bare process: name, what it is called, preload, environment, arguments.
VARIANTS = {
    "bare": ("bare", (), {}, []),
    "ours": ("nnmem without stacks", (harness.HOOK,), {"NNMEM_STACKS": "off"}, []),
    "stacks": ("nnmem", (harness.HOOK,), {}, []),
    "native": ("nnmem with native stacks too", (harness.HOOK,), {"NNMEM_STACKS": "both"}, []),
    "profiler": ("torch.profiler", (), {}, ["profile"]),
}
# How long the recorder may go on with what a turn left in the ring before the next turn begins.
SETTLE_S = 0.12


class Load:
    """A process of load.py; closed, it has ended and its recorder has left."""

    def __init__(self, folder, variant, what):
        _, preload, extra, words = VARIANTS[variant]
        self.folder = folder / variant
        self.folder.mkdir(exist_ok=True)
        self.hooked = bool(preload)
        self.process = subprocess.Popen(
            [harness.python_of(VERSION), HERE / "load.py", what, *words],
            cwd=self.folder,
            env=harness.environment(preload, **extra),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.work(1)

    def work(self, amount):
        self.process.stdin.write(f"{amount}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        """Seconds from the script's own last line until the recorder has left; without a recorder, until the process has."""
        self.process.stdin.close()
        end = json.loads(self.process.stdout.readline())["end"]
        if self.process.wait(60) != 0:
            raise RuntimeError(f"load.py ended with {self.process.returncode}")
        while self.hooked and harness.recorders_of(self.process.pid):
            time.sleep(0.002)
        return (time.monotonic_ns() - end) / 1e9


def turns(folder, what, variants, amount, nr_turns, settle_s=SETTLE_S):
    """{variant: [what load.py said in each turn]}.  Every other round goes backwards, so that no one is always the next."""
    loads = {variant: Load(folder, variant, what) for variant in variants}
    result = {variant: [] for variant in variants}
    for number in range(nr_turns):
        for variant in variants if number % 2 == 0 else reversed(variants):
            result[variant].append(loads[variant].work(amount))
            if loads[variant].hooked:
                time.sleep(settle_s)
    closing = {variant: load.close() for variant, load in loads.items()}
    return result, closing


def show(what, values, unit, goal=""):
    """The median of @values, its standard error (from the middle half, as of a normal sample), the middle half."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    error = f"+- {1.2533 * (high - low) / 1.349 / math.sqrt(len(values)):<6.2f} [{low:.2f} .. {high:.2f}]" if len(values) > 1 else ""
    print(f"  {what:<58} {middle:8.2f} {unit} {error}  {goal}".rstrip(), flush=True)


def native_frames(folder):
    """How deep the native stack of an allocation of the last turn is."""
    query = """WITH RECURSIVE part(id) AS (SELECT (SELECT stack FROM allocation WHERE stack > 0 ORDER BY alloc_seq DESC LIMIT 1)
               UNION ALL SELECT stack.parent FROM part JOIN stack ON stack.id = part.id WHERE stack.parent > 0)
               SELECT count(*) FROM part JOIN stack ON stack.id = part.id JOIN frame ON frame.id = stack.frame WHERE frame.kind = 2"""
    return harness.Db(folder / "native/run.db").rows(query)[0][0]


def compare(folder, what, amount, sizes, unit, combine, goals, variants=tuple(VARIANTS)):
    """Run a load with all variants, and print a line for each: @combine(its figure, the bare one of the same round)."""
    nr_sets, nr_turns = sizes
    bare, added = [], {}
    for _ in range(nr_sets):
        result, _ = turns(folder, what, variants, amount, nr_turns)
        bare.append(statistics.median(one["ns"] for one in result["bare"]) / (1e6 if unit == "% " else 1))
        for variant in variants[1:]:
            for clock in ("ns", "cpu_ns"):
                figures = [combine(one[clock], zero[clock]) for one, zero in zip(result[variant], result["bare"])]
                added.setdefault((variant, clock), []).append(statistics.median(figures))
    show("bare", bare, "ms" if unit == "% " else "ns")
    if "native" in variants:
        print(f"  native frames of the last allocation: {native_frames(folder)}")
    for (variant, clock), figures in added.items():
        if clock == "ns":
            show(f"added by {VARIANTS[variant][0]}", figures, unit, goals.get(variant, ""))
        else:
            show("  in CPU time of the thread", figures, unit)


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


def million(folder, steps):
    """A long run: how its end, its file and its report are."""
    result, closing = turns(folder, "transformer", ("bare", "ours"), steps, 1, settle_s=0)
    events = harness.Db(folder / "ours/run.db").run()["events"]
    print(f"a run of {events:,} events")
    show("later than a bare process, the run file is closed", [closing["ours"] - closing["bare"]], "s ", "goal: 1")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        harness.report("run.db", folder=folder / "ours")
        times.append(time.perf_counter() - start)
    show("nnmem-report's summary", times, "s ", "goal: 0.5")
    show("size of run.db", [(folder / "ours/run.db").stat().st_size / 1e6], "MB")


def difference(one, bare):
    return one - bare


def percent(one, bare):
    return 100 * (one / bare - 1)


def main():
    short = "--short" in sys.argv[1:]
    sizes = nr_sets, nr_turns = (1, 2) if short else (10, 6)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        print(f"PyTorch {VERSION}, one thread, {nr_sets} sets of processes, {nr_turns} turns each; median +- error [middle half]")

        print("one thread allocating and freeing a small tensor, an event")
        goals = {"ours": "goal: 150", "stacks": "goal: 400"}
        python_only = tuple(variant for variant in VARIANTS if variant != "native")
        compare(folder, "allocations", 10_000 if short else 200_000, sizes, "ns", difference, goals)
        print("a module call that does nothing")
        compare(folder, "calls", 10_000 if short else 200_000, sizes, "ns", difference, {"ours": "goal: 500", "stacks": "goal: 500"}, python_only)
        for net, title, steps, goal in (("E2", "E2, batch 64", 2, "goal: 2"), ("transformer", "small-tensor transformer", 40, "goal: 10")):
            print(f"{title}: a training step")
            variants = python_only if net == "E2" else tuple(VARIANTS)
            compare(folder, net, 1 if short else steps, sizes, "% ", percent, {"ours": goal}, variants)

        million(folder, 10 if short else 410)

        print("a process that never imports torch")
        show("added to /bin/true", start_up(["/bin/true"], 5 if short else 200, folder), "ms", "goal: 1")
        show("added to python -c pass", start_up([harness.python_of(VERSION), "-c", "pass"], 5 if short else 60, folder), "ms", "goal: 1")


main()
