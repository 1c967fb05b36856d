"""Train random trees of modules, one for each seed, and say what each held when.

usage: trees.py OUT.json FIRST_SEED END_SEED

Runs under count_preload.so; every number of events is that of its log.  OUT.json: for each seed
- start, end: the events of its whole life: everything that was made after start is gone at end.
- calls: [events, path of the module, 1 or -1]: a call began or ended.
- claims: as categories.py says.
"""

import gc
import json
import random
import sys

import torch
from torch import nn

import categories
from categories import claim, events

WIDTH = 8


class Chain(nn.Module):
    """Its parts one after another, some of them several times."""

    def __init__(self, parts, order):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.order = order

    def forward(self, x):
        for at in self.order:
            x = self.parts[at](x)
        return x


class Split(nn.Module):
    """A weight of its own, and two parts side by side, which may be the same module."""

    def __init__(self, left, right):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH))
        self.left, self.right = left, right

    def forward(self, x):
        return x + (self.left(x) + self.right(x) * self.scale).tanh()


class Tree(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x)


LEAVES = (
    lambda: nn.Linear(WIDTH, WIDTH),
    lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    lambda: nn.LayerNorm(WIDTH),
    lambda: nn.BatchNorm1d(WIDTH),
    nn.GELU,
    nn.Tanh,
    lambda: nn.Dropout(0.3),
)

OPTIMIZERS = (
    lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
    lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
    lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
)


def grow(dice, depth, made):
    """A random module; @made are those that there are, which may be used again."""
    if made and dice.random() < 0.15:
        return dice.choice(made)
    kind = dice.random()
    if depth == 0 or kind < 0.2:
        module = dice.choice(LEAVES)()
    elif kind < 0.7:
        parts = [grow(dice, depth - 1, made) for _ in range(dice.randint(1, 3))]
        module = Chain(parts, [dice.randrange(len(parts)) for _ in range(dice.randint(1, 4))])
    else:
        module = Split(grow(dice, depth - 1, made), grow(dice, depth - 1, made))
    made.append(module)
    return module


def say_all(model, optimizer):
    for name, parameter in model.named_parameters():
        claim("parameter", name, parameter)
        if parameter.grad is not None:
            claim("gradient", name, parameter.grad)
        for key, value in (optimizer.state.get(parameter) or {}).items():
            if torch.is_tensor(value):
                claim("optimizer_state", name, value, key)
    for buffer in model.buffers():
        claim("buffer", None, buffer)


def live(dice, calls):
    """The whole life of one model."""
    model = Tree(Chain([nn.Linear(WIDTH, WIDTH), grow(dice, dice.randint(1, 4), [])], [0, 1]))
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *unused, path=path: calls.append([events(), path, 1]))
        module.register_forward_hook(lambda *unused, path=path: calls.append([events(), path, -1]))
    for parameter in list(model.parameters())[2:]:
        parameter.requires_grad_(dice.random() < 0.9)
    optimizer = dice.choice(OPTIMIZERS)([parameter for parameter in model.parameters() if parameter.requires_grad])
    x = torch.randn(dice.randint(2, 6), WIDTH)
    to_none, micro_batches = dice.random() < 0.6, dice.randint(1, 2)
    for _ in range(dice.randint(2, 5)):
        for _ in range(micro_batches):
            model(x).square().mean().backward()
        say_all(model, optimizer)
        optimizer.step()
        say_all(model, optimizer)
        if dice.random() < 0.3:
            with torch.no_grad():
                model.eval()(x)
            model.train()
        optimizer.zero_grad(set_to_none=to_none)
    claim("input", None, x)


def main():
    torch.set_num_threads(1)
    seeds = {}
    for seed in range(int(sys.argv[2]), int(sys.argv[3])):
        torch.manual_seed(seed)
        categories.now.clear()
        calls, start = [], events()
        live(random.Random(seed), calls)
        gc.collect()
        seeds[seed] = {"start": start, "end": events(), "calls": calls, "claims": list(categories.now)}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(seeds, file)


main()
