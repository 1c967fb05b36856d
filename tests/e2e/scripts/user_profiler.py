"""A script that profiles itself: what its profilers told it goes to a file, to be compared with a run without nnmem.

usage: user_profiler.py OUT.json
"""

import json
import sys

import torch
from torch.profiler import ProfilerActivity, profile

import nets


def memory_events(prof):
    found = []

    def walk(nodes):
        for node in nodes:
            if node.name == "[memory]":
                fields = node.extra_fields
                found.append([node.start_time_ns, len(found), fields.alloc_size, fields.total_allocated, fields.total_reserved])
            walk(node.children)

    walk(prof.profiler.kineto_results.experimental_event_tree())
    return [event[2:] for event in sorted(found)]


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x, y, loss_of = nets.make("E3", 4)
    opt = nets.OPTIMIZERS["adam"](model.parameters())
    seen, kept = [], []

    def step():
        loss_of(model(x), y).backward()
        opt.step()
        opt.zero_grad()

    kept.append(torch.zeros(1000))
    step()
    for number in range(4):
        kept.append(torch.zeros(2000 + number))
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            kept.append(torch.zeros(3000 + number))
            kept.pop(0)
            step()
        seen.append(memory_events(prof))
        kept.pop(0)
        kept.append(torch.zeros(500))
        step()
    with torch.autograd.profiler.profile(profile_memory=True, use_kineto=False) as legacy:
        step()
        kept.clear()
    # The sum of what fell outside operators is left out: a bare run does not repeat it (a free at the edge of an operator's
    # interval is counted or not, by the clock).  The events above cover those frees exactly.
    sums = sorted((e.key, e.count, e.self_cpu_memory_usage) for e in legacy.key_averages() if e.key != "[memory]")
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"sessions": seen, "legacy": sums}, file)


main()
