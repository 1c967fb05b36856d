"""Train in one of many styles, with account.py's words where a phase or a module cannot be seen from outside.

usage: styles.py STYLE...    (bare under count_preload.so with ACCOUNT set: writes account.json; or under the hook)
"""

import gc
import sys
import warnings

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

import account
from account import during, know, part

WIDTH = 12


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.norm(x + 0.5 * self.inner(x).sigmoid())


class Net(nn.Module):
    """Work of its own before, between and after its children."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.heads = nn.ModuleDict({"a": nn.Linear(WIDTH, 3), "b": nn.Bilinear(WIDTH, WIDTH, 3)})

    def forward(self, x):
        x = self.first(x * 1.5).tanh()
        for block in self.blocks:
            x = block(x)
        return self.heads["a"](x).exp() + self.heads["b"](x, x) ** 2


def data(rows=5):
    with during("other" if trained else "static"):
        return torch.randn(rows, WIDTH)


trained = []


def step(optimizer, loss, **options):
    with during("backward"):
        loss.backward(**options)
    update(optimizer)


def update(optimizer):
    trained.append(True)
    optimizer.step()
    with during("other"):
        optimizer.zero_grad()


def train(model, loss_of=None, steps=3, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        x = data()
        with during("forward"):
            loss = loss_of(model, x) if loss_of else model(x).square().mean()
        seed_and_backward(loss)
        update(optimizer)


def seed_and_backward(loss, **options):
    """The gradient that the engine starts from is made before the engine runs: it is still forward's."""
    with during("forward"):
        loss.backward(**options)


# ---- modules


def nested():
    train(know(Net()))


def repeated():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.act, self.out = nn.GRUCell(WIDTH, WIDTH), nn.GELU(), Block()

        def forward(self, x):
            state = torch.zeros_like(x)
            for _ in range(3):
                state = self.act(self.cell(x, state)) + 1
            return self.out(self.out(state)) - self.act(state)

    train(know(Again()))


def shared():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(WIDTH, WIDTH)
            self.two = self.one
            self.words = nn.Embedding(7, WIDTH)
            self.block = nn.Sequential(Block(), self.one)
            self.out = nn.Linear(WIDTH, 7, bias=False)
            self.out.weight = self.words.weight

        def forward(self, x):
            x = self.two(self.one(x)) * self.words(torch.arange(len(x)))
            return self.out(self.block(x) + 1)

    train(know(Shared()))


def roots():
    """Encoder and decoder called one after the other, two models of one class, a teacher without gradients."""
    encoder, decoder, twin, teacher = Net(), nn.Linear(3, WIDTH), Net(), Block()
    for model in (encoder, decoder, twin, teacher):
        know(model)
    optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters(), *twin.parameters()], lr=0.01)
    for _ in range(3):
        x = data()
        with during("forward"):
            code = encoder(x)
            again = decoder(code.relu()) + 1
            other = twin(again)
        with during("inference"), torch.no_grad():
            wanted = teacher(x)
        with during("forward"):
            loss = (other - code).abs().mean() + nn.functional.mse_loss(again, wanted)
        seed_and_backward(loss)
        update(optimizer)


def strays():
    """Modules made on the fly, functions as modules, a module replaced in mid-run, parametrizations, an LSTM."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
            self.last = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))
            self.lazy = nn.LazyLinear(WIDTH)

        def forward(self, x):
            x, _ = self.rnn(x[None])
            x, _ = self.mix(x, x, x)
            return self.last(self.lazy(x))[0] + 1

    model = Odd()
    with torch.no_grad():
        model(torch.ones(5, WIDTH))  # the lazy module becomes what it stands for
    train(know(model, "Odd"))
    model.last = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    know(model, "Odd")
    train(model, steps=2)


# ---- without modules


def functional():
    w = torch.randn(WIDTH, WIDTH, requires_grad=True)
    b = torch.zeros(WIDTH, requires_grad=True)
    for _ in range(3):
        x = data()
        with during("forward"):
            loss = ((x @ w + b).tanh() ** 2).mean()
        seed_and_backward(loss)
        trained.append(True)
        with torch.no_grad(), during("other"):
            w -= 0.1 * w.grad
            b -= 0.1 * b.grad
            w.grad = b.grad = None


def derivatives():
    """torch.autograd.functional, and gradients of several outputs at once."""
    w = torch.randn(3, 3)

    def f(w):
        with during("forward"):
            return (w @ w).tanh().sum(0)

    torch.autograd.functional.jacobian(f, w)
    torch.autograd.functional.hessian(lambda w: f(w).prod(), w)
    torch.autograd.functional.vhp(lambda w: f(w).prod(), w, torch.ones(3, 3))
    x = w.requires_grad_()
    torch.autograd.grad(f(x), x, torch.eye(3), is_grads_batched=True)


def checkpoint_functional():
    """Checkpoints outside all modules."""
    w = torch.randn(WIDTH, WIDTH, requires_grad=True)

    def f(x):
        return (x @ w).sigmoid().square().exp()

    for reentrant in (True, False, True, False):
        x = data().requires_grad_()
        with during("forward"):
            y = x @ w
            loss = checkpoint(f, y, use_reentrant=reentrant).square().mean()
        seed_and_backward(loss)
        trained.append(True)
        with torch.no_grad(), during("other"):
            w -= 0.1 * w.grad
            w.grad = None


def func():
    """torch.func: grad and vmap of functional_call on a module."""
    model = know(Net())
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss_of(weights, x):
        return torch.func.functional_call(model, weights, (x,)).square().mean()

    gradient = torch.func.grad(loss_of)
    each = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0))
    warnings.simplefilter("ignore")
    for turn in range(4):
        x = data()
        with during("forward"):
            grads = gradient(weights, x) if turn < 2 else each(weights, x[:, None])
        trained.append(True)
        with during("other"):
            weights = {name: w - 0.01 * (grads[name] if turn < 2 else grads[name].mean(0)) for name, w in weights.items()}


def func_plain():
    """torch.func on plain functions: grad, vjp, jacrev, jvp, hessian."""
    w = torch.randn(WIDTH, WIDTH)

    def f(w):
        return (w @ w).tanh().sum()

    for _ in range(2):
        with during("forward"):
            g = torch.func.grad(f)(w)
        trained.append(True)
        with during("other"):
            w = w - 0.1 * g
    with during("forward"):
        torch.func.grad(lambda w: torch.func.grad(f)(w).square().sum())(w)


# ---- autograd


class Scaled(torch.autograd.Function):
    """Allocates in both directions, keeps something of its own, calls a module in forward, differentiates in backward."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale + torch.ones_like(x)

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (inner,) = torch.autograd.grad((y * y).sin().sum(), y)
        return gradient * scale + 0 * inner, (gradient * x).sum()


class New(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.exp(), x.cos()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, one, two):
        return one * ctx.saved_tensors[0] + two.neg()


class Custom(nn.Module):
    def __init__(self, new=True):
        super().__init__()
        self.first, self.scale, self.last = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.ones(())), Block()
        self.new = new

    def forward(self, x):
        x = Scaled.apply(self.first(x), self.scale)
        one, two = New.apply(x * 0.1) if self.new else (x, x)
        return self.last(one) * two


def custom():
    train(know(Custom()))


def penalty(way, model=None):
    """The gradient's norm is part of the loss; then the same through .backward(create_graph=True)."""
    model = know(model or Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        x = data().requires_grad_()
        with during("forward"):
            out = model(x).square().mean()
            if way == "grad":
                (g,) = torch.autograd.grad(out, x, create_graph=True)
                loss = out + (g.norm(dim=1) - 1).square().mean()
            else:
                out.backward(create_graph=True)
                loss = sum(p.grad.square().sum() for p in model.parameters()) + x.grad.norm()
        seed_and_backward(loss)
        update(optimizer)


def retain():
    """Two losses of one forward, a part of the graph asked for by autograd.grad."""
    model = know(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        x = data()
        with during("forward"):
            out = model(x)
            loss = out.square().mean()
        seed_and_backward(loss, retain_graph=True)
        with during("forward"):
            second = (out.abs() + 1).sum()
        seed_and_backward(second, retain_graph=True)
        with during("forward"):
            torch.autograd.grad(out.sum(), [model.first.weight, model.blocks[1].norm.weight])
        update(optimizer)


def inside():
    """Forces: a module differentiates in its own forward."""

    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = Block()

        def forward(self, x):
            x = x.clone().requires_grad_()
            (force,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
            return force * 2 + x

    train(know(Forces()))


def hooks():
    """Hooks of every kind, each of which allocates."""

    def spend(*unused):
        torch.ones(33).cumsum(0)

    model = Net()
    for module in model.modules():
        module.register_forward_pre_hook(spend)
        module.register_forward_hook(spend)
        module.register_full_backward_pre_hook(spend)
        module.register_full_backward_hook(spend)
    model.first.weight.register_hook(lambda g: g * 2)
    model.blocks[0].norm.bias.register_post_accumulate_grad_hook(lambda p: spend())
    nn.modules.module.register_module_forward_hook(spend)
    know(model)

    def loss_of(model, x):
        out = model(x)
        out.register_hook(lambda g: g + 0)
        return out.square().mean()

    train(model, loss_of)


def saved():
    """What is saved goes elsewhere and comes back: both allocate."""
    model = know(Net())

    def loss_of(model, x):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t.float()):
            out = model(x)
        with torch.autograd.graph.save_on_cpu():
            return model(x).square().mean() + out.mean()

    train(model, loss_of)


def raises():
    """Errors out of nested calls and out of a backward; the step goes on, or is begun anew."""

    class Faulty(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.fails = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Bilinear(WIDTH, WIDTH, 2)), False

        def forward(self, x):
            if self.fails:
                return self.inner(x * 2)  # Bilinear wants two
            return self.inner[0](x)

    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.faulty, self.last = Block(), Faulty(), Block()

        def forward(self, x):
            x = self.first(x)
            try:
                x = self.faulty(x)
            except TypeError:
                x = x.exp() + 1
            return self.last(x) * 2

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            torch.ones(77)
            raise ValueError

    model = know(Careful())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for turn in range(4):
        model.faulty.fails = turn % 2 == 1
        x = data()
        with during("forward"):
            loss = model(x).square().mean()
            failing = Fails.apply(model.last.norm(x)).sum()
        if turn == 2:
            try:
                seed_and_backward(loss + failing)
            except ValueError:
                continue
        seed_and_backward(loss)
        update(optimizer)


# ---- checkpointing


def some_are_kept():
    return create_selective_checkpoint_contexts([torch.ops.aten.addmm.default, torch.ops.aten.sigmoid.default])


class Checkpointed(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first, self.middle, self.drop = nn.Linear(WIDTH, WIDTH), Block(), nn.Dropout()
        self.last = nn.Linear(WIDTH, WIDTH)
        self.options = options

    def forward(self, x):
        x = checkpoint(self.middle, self.first(x) + 1, **self.options)
        return self.last(checkpoint(self.tail, x.tanh(), **self.options))

    def tail(self, x):
        return self.drop(x.sigmoid() * 2).exp() * 3


class Nested(nn.Module):
    def __init__(self, inner=None, **options):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(WIDTH, WIDTH), Checkpointed(**inner or options), nn.Linear(WIDTH, WIDTH)
        self.options = options

    def forward(self, x):
        return self.last(checkpoint(self.inner, self.first(x), **self.options) * 2)


def checkpointing(kind, **options):
    model = know(kind(**options))
    inner = getattr(model, "inner", model)
    inner.tail = part("Checkpointed:" if inner is model else "Nested:inner", Checkpointed.tail).__get__(inner)
    train(model)


def sequential():
    class Sequenced(nn.Module):
        def __init__(self):
            super().__init__()
            parts = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(4))
            self.body = nn.Sequential(*parts)  # which is never called

        def forward(self, x):
            return checkpoint_sequential(self.body, 2, x * 2, use_reentrant=False)

    train(know(Sequenced()))


# ---- compiled: a region has the layer of the module that was called for it, and what it runs in backward too


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.last(self.first(x) * 2).sigmoid()


def compiled(model, backend="aot_eager"):
    """The model as a whole.  A second compilation of the same frame is an error."""
    with torch._dynamo.config.patch(error_on_recompile=True):
        name = type(model).__name__
        train(account.know_as(torch.compile(model, backend=backend, fullgraph=True), f"{name}:"))
    say_compilations()


def say_compilations():
    counters = torch._dynamo.utils.counters
    print({what: dict(counters[what]) for what in ("stats", "frames", "graph_break", "unimplemented")})
    torch._dynamo.reset()
    counters.clear()


def compiled_parts():
    """One part compiled in place, one wrapped, one with a break in its middle; a function around modules."""

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            x = self.first(x).relu()
            torch._dynamo.graph_break()
            return self.inner(x) + 1

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = nn.Linear(WIDTH, WIDTH), Small()
            self.wrapped, self.broken = Small(), Broken()

        def forward(self, x):
            x = self.inner(self.first(x) + 1).exp()
            return self.broken(self.wrapped(x) * 2)

    model = Mixed()
    know(model, but=(model.inner, model.wrapped, model.broken))
    model.inner.compile(backend="aot_eager", fullgraph=True)
    account.know_as(model.inner, "Mixed:inner")
    model.wrapped = account.know_as(torch.compile(model.wrapped, backend="aot_eager", fullgraph=True), "Mixed:wrapped")
    model.broken = account.know_as(torch.compile(model.broken, backend="aot_eager"), "Mixed:broken")
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(model)
    say_compilations()


def compiled_function():
    model = Small()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def loss_of(x):
        return model(x * 2).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        x = data()
        with during("forward"):
            loss = loss_of(x)
        seed_and_backward(loss)
        update(optimizer)
    say_compilations()


def scripted(way):
    """Inside the interpreter of torch.jit there are no calls of modules: all is the outermost one's."""
    torch.manual_seed(1)
    warnings.simplefilter("ignore")
    model = Net()
    with torch.no_grad():
        model = torch.jit.script(model) if way == "script" else torch.jit.trace(model, torch.ones(5, WIDTH))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last = model, nn.Linear(3, 3)

        def forward(self, x):
            return self.last(self.body(x)) + 1

    outer = Outer()
    account.know_as(outer, "Outer:")
    account.know_as(outer.body, "Outer:body")
    account.know_as(outer.last, "Outer:last")
    train(outer, steps=4)


STYLES = {
    "nested": nested,
    "repeated": repeated,
    "shared": shared,
    "roots": roots,
    "strays": strays,
    "functional": functional,
    "func": func,
    "checkpoint_functional": checkpoint_functional,
    "func_plain": func_plain,
    "derivatives": derivatives,
    "custom": custom,
    "penalty_grad": lambda: penalty("grad"),
    "penalty_backward": lambda: penalty("backward"),
    "penalty_custom": lambda: penalty("grad", Custom(new=False)),
    "retain": retain,
    "saved": saved,
    "raises": raises,
    "inside": inside,
    "hooks": hooks,
    "checkpoint": lambda: checkpointing(Checkpointed, use_reentrant=False),
    "checkpoint_reentrant": lambda: checkpointing(Checkpointed, use_reentrant=True),
    "checkpoint_nested": lambda: checkpointing(Nested, use_reentrant=False),
    "checkpoint_nested_reentrant": lambda: checkpointing(Nested, use_reentrant=True),
    "checkpoint_sequential": sequential,
    "checkpoint_mixed": lambda: checkpointing(Nested, use_reentrant=True, inner={"use_reentrant": False}),
    "checkpoint_selective": lambda: checkpointing(Checkpointed, use_reentrant=False, context_fn=some_are_kept),
    "compiled": lambda: compiled(Net()),
    "compiled_checkpoint": lambda: compiled(Checkpointed(use_reentrant=False)),
    "compiled_inductor": lambda: compiled(Small(), "inductor"),
    "compiled_parts": compiled_parts,
    "compiled_function": compiled_function,
    "scripted": lambda: scripted("script"),
    "traced": lambda: scripted("trace"),
}

torch.set_num_threads(1)
torch.manual_seed(0)
gc.disable()  # when it runs depends on how many objects there are
for style in sys.argv[1:]:
    account.start(style)
    STYLES[style]()
    gc.collect()
account.save()
