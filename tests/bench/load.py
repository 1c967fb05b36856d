"""One load of the benchmark, in a process of its own; prints what it measured of itself as JSON.

usage: load.py allocations|E2|transformer AMOUNT [profile]
AMOUNT: allocations, or training steps.  `profile`: under torch.profiler with profile_memory=True.
"""

import contextlib
import json
import statistics
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

import nets

BATCH = {"E2": 64, "transformer": 4}
WARM_UP_STEPS = 3


def allocations(amount):
    """ns, and ns of this thread's CPU time, for each of 2 * @amount events: a small tensor is made and dropped again."""
    empty = torch.empty
    for _ in range(1000):
        empty(16)
    start, cpu_start = time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(amount):
        empty(16)
    return (time.perf_counter_ns() - start) / (2 * amount), (time.thread_time_ns() - cpu_start) / (2 * amount)


def training(name, amount):
    """Median ns of a training step, and of this thread's CPU time in it."""
    model, x, y, loss_of = nets.make(name, BATCH[name])
    opt = nets.OPTIMIZERS["adamw" if name == "transformer" else "momentum"](model.parameters())
    times, cpu_times = [], []
    for _ in range(WARM_UP_STEPS + amount):
        start, cpu_start = time.perf_counter_ns(), time.thread_time_ns()
        loss_of(model(x), y).backward()
        opt.step()
        opt.zero_grad()
        times.append(time.perf_counter_ns() - start)
        cpu_times.append(time.thread_time_ns() - cpu_start)
    return statistics.median(times[WARM_UP_STEPS:]), statistics.median(cpu_times[WARM_UP_STEPS:])


def main():
    what, amount = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        if "profile" in sys.argv[3:]:
            stack.enter_context(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
        ns, cpu_ns = allocations(amount) if what == "allocations" else training(what, amount)
        print(json.dumps({"ns": ns, "cpu_ns": cpu_ns, "end": time.monotonic_ns()}), flush=True)


main()
