"""Training whose operators are known to PyTorch's own profiler; `operations.py NET BATCH OPTIMIZER`: all of two steps of nets.py.

Leaves operations.json: what the profiler said of the second step: `tree`, (size, operator) of each allocation in order, by
the rule that the test states, and `profile`, its table of operators; `trace`: names that an ExecutionTraceObserver saw in the fourth.
"""

import json
import os
import sys

import torch
from torch.utils.checkpoint import checkpoint

import nets


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2 + torch.ones(5)[0]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.again = torch.nn.Linear(36, 36)
        self.attention = torch.nn.TransformerEncoderLayer(12, 3, 16, batch_first=True)
        self.out = torch.nn.Linear(36, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = Twice.apply(x).flatten(1)
        x = checkpoint(self.again, x, use_reentrant=False)
        x = checkpoint(self.again, x, use_reentrant=True)
        x = self.attention(x.view(-1, 3, 12)).flatten(1)
        return self.out(x @ torch.eye(36))


def step(net, optimizer, images):
    x, y = torch.randn(images, 3, 5, 5), torch.randint(0, 5, (images,))
    torch.nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


def allocations(event, inside, name):
    """(size, operator) of all that was allocated in @event; @inside: "node", "python" (node), "module" or "", with @name."""
    kind = str(event.tag).split(".")[-1]
    if kind == "Allocation":
        if event.extra_fields.alloc_size > 0:
            yield event.extra_fields.alloc_size, name
        return
    if kind == "PyCall" and event.extra_fields.module:
        inside, name = "module", None
    elif kind == "TorchOp" and event.name.startswith("autograd::engine::evaluate_function: "):
        name = event.name.split(": ", 1)[1]
        inside = "python" if name in ("TwiceBackward", "CheckpointFunctionBackward") else "node"
    elif kind == "TorchOp" and "BACKWARD_FUNCTION" not in str(event.extra_fields.scope):
        if inside == "python" or not name and inside != "node":
            inside, name = "operator", event.name
    for child in event.children:
        yield from allocations(child, inside, name)


def tree_of(profile):
    roots = profile.profiler.kineto_results.experimental_event_tree()
    return [row for root in roots for row in allocations(root, "", None)]


def train_one_of_nets(name, batch, optimizer):
    with torch.profiler.profile(profile_memory=True, with_stack=True) as profile:
        net, x, y, loss = nets.make(name, int(batch))
        optimizer = nets.OPTIMIZERS[optimizer](net.parameters())
        for _ in range(2):
            loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    with open("operations.json", "w") as out:
        json.dump({"tree": tree_of(profile)}, out)


def main():
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step(net, optimizer, 7)
    with torch.profiler.profile(profile_memory=True, with_stack=True) as profile:
        step(net, optimizer, 7)
    said = {
        "tree": tree_of(profile),
        "profile": sorted((e.key, e.count, e.self_cpu_memory_usage) for e in profile.key_averages() if "<" not in e.key and "(" not in e.key),
    }
    step(net, optimizer, 7)
    observer = torch.profiler.ExecutionTraceObserver().register_callback("trace.json")
    observer.start()
    step(net, optimizer, 7)
    observer.stop()
    observer.unregister_callback()
    with open("trace.json") as trace:
        said["trace"] = [node["name"] for node in json.load(trace)["nodes"]]
    os.remove("trace.json")
    for i in range(40):
        step(net, optimizer, 7 if i < 30 else 11)
    with open("operations.json", "w") as out:
        json.dump(said, out)


if len(sys.argv) > 1:
    train_one_of_nets(*sys.argv[1:])
else:
    main()
