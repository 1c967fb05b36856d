"""Train in one of several ways and note which phase the script was in, by its own account.

usage: phases.py WAY    (under count_preload.so; writes marks.json)

Marks of what `forward`, `backward`, ... begin and end where the script's own call does.  An allocation before the first
mark is static; of two marks the later, inner one counts.
"""

import inspect
import sys

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from marks import Marks

marks = Marks()
backwards = []  # those that run


def net():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 5))


def forward(model, x, y):
    with marks.during("forward"):
        return nn.functional.cross_entropy(model(x), y)


def backward(loss):
    """The gradient that the engine starts from is made first, outside the engine: it is still forward's."""
    seed = marks.now()
    marks.intervals.append([seed, seed + 1, "forward", "seed"])
    with marks.during("backward"):
        backwards.append(True)
        loss.backward()
        backwards.pop()


def batch():
    with marks.during("other"):
        return torch.randn(16, 20), torch.randint(0, 5, (16,))


def first_batch():
    return torch.randn(16, 20), torch.randint(0, 5, (16,))


def plain():
    """New data each step, gradients dropped before forward, a validation pass between steps."""
    model = net()
    opt = torch.optim.Adam(model.parameters())
    x, y = first_batch()
    for _ in range(4):
        loss = forward(model, x, y)
        backward(loss)
        with marks.during("optimizer"):
            opt.step()
        with marks.during("other"):
            opt.zero_grad()
            del loss
        with torch.no_grad(), marks.during("inference"):
            model(x)
        x, y = batch()


def closure():
    """LBFGS runs forward and backward inside step(): the innermost phase counts."""
    model = net()
    opt = torch.optim.LBFGS(model.parameters(), max_iter=3)
    x, y = first_batch()

    def evaluate():
        with marks.during("optimizer"):
            opt.zero_grad()
        loss = forward(model, x, y)
        backward(loss)
        return loss

    for _ in range(3):
        with marks.during("optimizer"):
            opt.step(evaluate)


def in_backward():
    """Each parameter is stepped as soon as its gradient is there, inside backward."""
    model = net()
    opts = {p: torch.optim.SGD([p], lr=0.01, momentum=0.9) for p in model.parameters()}

    def step(parameter):
        with marks.during("optimizer"):
            opts[parameter].step()
            opts[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    x, y = first_batch()
    for _ in range(3):
        loss = forward(model, x, y)
        backward(loss)
        del loss


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(20, 30), net_middle(), nn.Linear(30, 5)
        self.reentrant = reentrant

    def forward(self, x):
        return self.last(checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant))


def net_middle():
    return nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU())


def checkpointed(reentrant):
    model = Checkpointed(reentrant)
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    in_engine = []

    def enter(module, args):
        in_engine.append(marks.now() if backwards else None)

    def leave(module, args, output):
        start = in_engine.pop()
        if start is not None:
            marks.add(start, "backward", "recompute")

    # Recomputing stops early by an exception; before 2.1 it does not, and there is no such option.
    always = {"always_call": True} if "always_call" in inspect.signature(nn.Module.register_forward_hook).parameters else {}
    for module in model.middle.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, **always)
    x, y = first_batch()
    for _ in range(3):
        loss = forward(model, x, y)
        backward(loss)
        with marks.during("optimizer"):
            opt.step()
        with marks.during("other"):
            opt.zero_grad()
            del loss


def gan():
    """Two nets, two optimizers, a detached pass: three forwards and two backwards a step."""
    maker, judge = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 20)), nn.Sequential(nn.Linear(20, 1))
    opt_maker, opt_judge = (torch.optim.Adam(model.parameters(), lr=1e-3) for model in (maker, judge))
    real = torch.randn(16, 20)
    noise = torch.randn(16, 8)
    for _ in range(3):
        with marks.during("forward"):
            loss = judge(real).mean() - judge(maker(noise).detach()).mean()
        backward(loss)
        with marks.during("optimizer"):
            opt_judge.step()
        with marks.during("other"):
            opt_judge.zero_grad()
        with marks.during("forward"):
            loss = judge(maker(noise)).mean()
        backward(loss)
        with marks.during("optimizer"):
            opt_maker.step()
        with marks.during("other"):
            opt_maker.zero_grad()
            opt_judge.zero_grad()
            del loss


def accumulate():
    """Three micro-batches a step."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = first_batch()
    for _ in range(3):
        for _ in range(3):
            loss = forward(model, x, y)
            backward(loss)
            del loss
        with marks.during("optimizer"):
            opt.step()
        with marks.during("other"):
            opt.zero_grad()


WAYS = {
    "plain": plain,
    "closure": closure,
    "in_backward": in_backward,
    "checkpoint": lambda: checkpointed(False),
    "checkpoint_reentrant": lambda: checkpointed(True),
    "gan": gan,
    "accumulate": accumulate,
}

torch.set_num_threads(1)
torch.manual_seed(0)
WAYS[sys.argv[1]]()
marks.save("marks.json")
