"""Tensors of sizes that occur once, made in all kinds of frames; `# at NAME` marks the lines that the test asks for.

Leaves stacks.json: what Python itself says of one of the stacks.
"""

import copy
import json
import sys
import threading
import traceback

import torch
from torch.utils.checkpoint import checkpoint

kept = []
said = {}


def plain(n):
    said["plain"] = [(f.filename, f.lineno) for f in traceback.extract_stack()]; kept.append(torch.empty(n))  # at plain


def generator():
    yield torch.empty(2003)  # at generator
    yield (
        torch.empty(  # at lines
            2011
        )
    )


def recursion(depth, n):
    if depth:
        return recursion(depth - 1, n)
    return torch.empty(n)  # at recursion


class Things:
    kept.append(torch.empty(2017))  # at class

    def __lt__(self, other):
        kept.append(torch.empty(2027))  # at from C
        return False


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        kept.append(torch.empty(2029))
        return grad * 2


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(211, 223)  # at parameter

    def forward(self, x):
        y = self.linear(x)  # at linear
        return torch.relu(y)  # at relu


def training():
    a, b = torch.randn(101, requires_grad=True), torch.randn(103, requires_grad=True)
    y = torch.outer(a, b)  # at outer
    z = y.exp()  # at exp
    z.sum().backward()
    x = torch.randn(107, requires_grad=True)
    Twice.apply(  # at custom
        x
    ).sum().backward()
    net = Net()
    checkpoint(net, torch.randn(227, 211), use_reentrant=False).sum().backward()


def made_up():
    """Code objects that die; their addresses return."""
    addresses, returned = set(), 0
    for i in range(2000):
        source = "\n" * (i % 47) + "x = [torch.empty(3000 + i % 47)]\n" + "\n" * (i % 13) + "y = 1"
        code = compile(source, f"<made {i % 3}>", "exec")
        returned += id(code) in addresses
        addresses.add(id(code))
        exec(code, {"torch": torch, "i": i})
    said["returned"] = returned


def in_threads():
    def work(n):
        for _ in range(100):
            torch.empty(n)  # at thread

    threads = [threading.Thread(target=work, args=(4001 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main():
    sys.setrecursionlimit(3000)
    plain(2039)  # at plain's caller
    kept.extend(generator())
    (lambda: kept.append(torch.empty(2053)))()  # at lambda
    kept.extend([torch.empty(n) for n in (2063,)])  # at comprehension
    kept.append(recursion(1000, 2069))
    kept.append(recursion(1001, 2069))
    sorted([Things(), Things()])
    kept.append(torch.nn.functional.pad(torch.empty(2081), (1, 1)))  # at inside torch
    kept.append(copy.deepcopy(torch.empty(2083 + 6)))  # at inside the library
    eval("kept.append(torch.empty(2087))")
    try:
        torch.zeros(1 << 46)  # at refused
    except RuntimeError:
        pass
    training()
    made_up()
    in_threads()
    with open("stacks.json", "w") as out:
        json.dump(said, out)


main()
