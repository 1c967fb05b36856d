"""One load of the benchmark, in a process of its own that works a little whenever it is told to.

usage: load.py allocations|calls|E2|transformer [profile]

Each line on the standard input is an amount (of events, module calls or training steps); the answer is one line of JSON: what
one of them took.  `profile`: each amount under torch.profiler with profile_memory=True.
"""

import contextlib
import json
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

import nets

BATCH = {"E2": 64, "transformer": 4}
WARM_UP_STEPS = 5


def allocations():
    """A small tensor is made and dropped again: two events."""
    empty = torch.empty

    def work(amount):
        for _ in range(amount // 2):
            empty(16)

    work(2000)
    return work


def calls():
    """Calls of a module that does nothing, below a root."""
    width = 200
    model, x = torch.nn.Sequential(*(torch.nn.Identity() for _ in range(width))), torch.zeros(1)

    def work(amount):
        for _ in range(amount // width):
            model(x)

    work(10 * width)
    return work


def training(name):
    model, x, y, loss_of = nets.make(name, BATCH[name])
    opt = nets.OPTIMIZERS["adamw" if name == "transformer" else "momentum"](model.parameters())

    def work(amount):
        for _ in range(amount):
            loss_of(model(x), y).backward()
            opt.step()
            opt.zero_grad()

    work(WARM_UP_STEPS)
    return work


def deep(depth, call):
    """@call() with so many Python frames below it."""
    return call() if depth <= 1 else deep(depth - 1, call)


def serve(work, profiled):
    for line in sys.stdin:
        amount = int(line)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) if profiled else contextlib.nullcontext():
            start, cpu_start = time.perf_counter_ns(), time.thread_time_ns()
            work(amount)
            ns, cpu_ns = (time.perf_counter_ns() - start) / amount, (time.thread_time_ns() - cpu_start) / amount
        print(json.dumps({"ns": ns, "cpu_ns": cpu_ns}), flush=True)


def main():
    what = sys.argv[1]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    work = {"allocations": allocations, "calls": calls}.get(what, lambda: training(what))()
    # A stack as deep as a script's usually is: the goals are stated for 16 frames.
    deep(16 - 4, lambda: serve(work, "profile" in sys.argv[2:]))
    print(json.dumps({"end": time.monotonic_ns()}), flush=True)


main()
