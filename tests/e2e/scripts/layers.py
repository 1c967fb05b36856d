"""Train a net while ordinary PyTorch hooks note which module is at work, in forward and in backward.

usage: layers.py NET STEPS    (under count_preload.so; writes marks.json)

In forward a pair of global module hooks brackets each call.  In backward a pair of hooks on each autograd node brackets
its work; the node belongs to the module behind whose output it was first seen, or in which it was seen to lead to a child.
"""

import sys

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

import nets
from marks import Marks


class Doubled(torch.autograd.Function):
    """A custom Function that allocates in both directions."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2 + torch.zeros(gradient.shape)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + torch.tanh(Doubled.apply(self.inner(x))))


class Odd(nn.Module):
    """Custom Functions, a module used twice, work of a module's own between its children, work outside all modules."""

    def __init__(self):
        super().__init__()
        self.first = Block(16)
        self.shared = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(Block(16) for _ in range(2))

    def forward(self, x):
        x = self.shared(self.first(x)).sigmoid()
        for block in self.blocks:
            x = block(x)
        return self.shared(x) * 0.5


def main():
    name, steps = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if name == "odd":
        model, x, y, loss_of = Odd(), torch.randn(8, 16), torch.randn(8, 16), nn.functional.mse_loss
    else:
        model, x, y, loss_of = nets.make(name, 4)
    names = {module: fqn for fqn, module in model.named_modules()}
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    marks, open_calls, seen = Marks(), [], {}

    def label(node, fqn):
        pending = [node]
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen[node] = fqn
            pending.extend(next_node for next_node, _ in node.next_functions)
            if "AccumulateGrad" in node.name():
                continue
            starts = []
            node.register_prehook(lambda gradients, starts=starts: starts.append(marks.now()))
            node.register_hook(lambda inputs, outputs, starts=starts, fqn=fqn: marks.add(starts.pop(), "backward", fqn))

    def enter(module, args):
        for arg in args:
            if isinstance(arg, torch.Tensor):
                label(arg.grad_fn, open_calls[-1][1] if open_calls else None)
        open_calls.append((marks.now(), names[module]))

    def leave(module, args, output):
        start, fqn = open_calls.pop()
        marks.add(start, "forward", fqn)
        if isinstance(output, tuple):
            output = output[0]
        label(output.grad_fn, fqn)

    module_hooks.register_module_forward_pre_hook(enter)
    module_hooks.register_module_forward_hook(leave)
    for _ in range(steps):
        with marks.during("outside"):
            loss = loss_of(model(x) * 1.5, y)
        label(loss.grad_fn, None)
        loss.backward()
        opt.step()
        opt.zero_grad()
        del loss
        seen.clear()
    marks.save("marks.json")


main()
