"""Tensors of all the kinds whose category a storage tells, made as programs make them; what each is, the script says itself.

usage: categories.py OUT.json CASE...

Runs under count_preload.so.  OUT.json holds for each case its claims, [events, category, parameter, state key, address, bytes]:
after so many events this storage was alive and of that category and parameter (None: nothing is claimed of it).  Category
"external": PyTorch did not allocate it; "mapped": it lies in a file that PyTorch has mapped.
"""

import copy
import ctypes
import json
import os
import sys
import warnings

import numpy
import torch
from torch import nn
from torch.nn import functional

events = ctypes.CDLL(None).count_preload_events
events.restype = ctypes.c_uint64

claims = {}
now = []


def claim(category, parameter, tensor, key=None):
    storage = tensor.untyped_storage()
    now.append([events(), category, parameter, key, storage.data_ptr(), storage.nbytes()])


def claim_all(model, optimizer, parameters="parameter"):
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        claim(parameters, name, parameter)
        if parameter.grad is not None and not parameter.grad.is_sparse:
            claim("gradient", name, parameter.grad)
        for key, value in (optimizer.state.get(parameter) or {}).items():
            if torch.is_tensor(value):
                claim("optimizer_state", name, value, key)
    for _, buffer in model.named_buffers():
        claim("buffer", None, buffer)


def train(model, optimizer, x, steps=2, loss_of=lambda output: output.square().mean(), after=lambda: None):
    for _ in range(steps):
        loss_of(model(x)).backward()
        claim_all(model, optimizer)
        optimizer.step()
        claim_all(model, optimizer)
        after()
        optimizer.zero_grad()
    claim("input", None, x)


def net(*sizes):
    """Sizes that no two tensors of the net share."""
    layers = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def adam(model):
    return torch.optim.Adam(model.parameters())


def flattened():
    """Parameters and gradients that are views of one buffer each."""
    model = net(20, 30, 10)
    parameters = list(model.parameters())
    size = sum(parameter.numel() for parameter in parameters)
    flat, flat_grad = torch.empty(size), torch.zeros(size)
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        flat[start:end].copy_(parameter.data.view(-1))
        parameter.data = flat[start:end].view_as(parameter)
        parameter.grad = flat_grad[start:end].view_as(parameter)
        start = end
    optimizer = adam(model)
    x = torch.randn(7, 20)
    for _ in range(2):
        model(x).square().mean().backward()
        for tensor, category in ((flat, "parameter"), (flat_grad, "gradient")):
            claim(category, None, tensor)
        optimizer.step()
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state[parameter].items():
                claim("optimizer_state", name, value, key)
        optimizer.zero_grad(set_to_none=False)


def buckets():
    """DistributedDataParallel, the gradients of which lie in its buckets."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/store", rank=0, world_size=1)
    model = net(20, 30, 10)
    ddp = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = adam(ddp)
    x = torch.randn(7, 20)
    for _ in range(4):
        ddp(x).square().mean().backward()
        for parameter in ddp.parameters():
            claim("parameter", None, parameter)
            claim("gradient", None, parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
    torch.distributed.destroy_process_group()


def tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(50, 12)
            self.head = nn.Linear(12, 50, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x):
            return self.head(self.words(x))

    model = Tied()
    train(model, adam(model), torch.randint(0, 50, (4, 5)))


def normed():
    model = nn.Sequential(nn.Linear(20, 31), nn.BatchNorm1d(31), nn.Linear(31, 10))
    train(model, adam(model), torch.randn(7, 20))


def views():
    """Buffers and inputs that are views into something larger."""
    model = net(20, 30, 10)
    table = torch.arange(600.0)
    model.register_buffer("table", table[100:120])
    data = torch.randn(50, 20)
    train(model, adam(model), data[10:17])
    claim("input", None, data)
    claim("buffer", None, table)


def moved():
    """Cast in mid-run, with an optimizer made anew as the documentation says."""
    model = net(20, 30, 10)
    x = torch.randn(7, 20)
    train(model, adam(model), x)
    model.double()
    train(model, adam(model), x.double())


def new_head():
    model = net(20, 30, 10)
    optimizer = adam(model)
    x = torch.randn(7, 20)
    train(model, optimizer, x)
    model[2] = nn.Linear(30, 13)
    optimizer.add_param_group({"params": model[2].parameters()})
    train(model, optimizer, x)
    # A parameter in the place of another, in the same module.
    model[0].bias = nn.Parameter(torch.zeros(30))
    optimizer.add_param_group({"params": [model[0].bias]})
    train(model, optimizer, x)


def late_parameter():
    """A parameter of the root itself, which had none."""
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net(20, 30, 10)

        def forward(self, x):
            return self.inner(x) * getattr(self, "scale", 1)

    model = Scaled()
    optimizer = adam(model)
    x = torch.randn(7, 20)
    train(model, optimizer, x, steps=4)
    model.scale = nn.Parameter(torch.ones(10))
    optimizer.add_param_group({"params": [model.scale]})
    train(model, optimizer, x, steps=3)


def loaded():
    model = net(20, 30, 10)
    optimizer = adam(model)
    x = torch.randn(7, 20)
    train(model, optimizer, x)
    weights, states = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    model.load_state_dict(weights)
    optimizer.load_state_dict(states)
    train(model, optimizer, x)
    # Resumed: everything is loaded before the first forward, and the storages of the checkpoint become the model's.
    model = net(20, 30, 10)
    model.load_state_dict(weights, assign=True)
    optimizer = adam(model)
    optimizer.load_state_dict(states)
    train(model, optimizer, x)


def adagrad():
    """The state is made with the optimizer."""
    model = net(20, 30, 10)
    train(model, torch.optim.Adagrad(model.parameters()), torch.randn(7, 20))


def others():
    for kind in (torch.optim.RMSprop, torch.optim.Adadelta, torch.optim.NAdam, torch.optim.ASGD, torch.optim.Rprop):
        model = net(20, 30, 10)
        train(model, kind(model.parameters(), lr=0.01), torch.randn(7, 20))


def lbfgs():
    model = net(20, 30, 10)
    optimizer = torch.optim.LBFGS(model.parameters(), history_size=4, max_iter=3)
    x = torch.randn(7, 20)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        (state,) = optimizer.state.values()
        for key, value in state.items():
            for at, item in enumerate(value if isinstance(value, list) else [value]):
                if torch.is_tensor(item):
                    # What it keeps of the last closure's gradient is a tensor of its own.
                    claim("optimizer_state", None, item)
        for parameter in model.parameters():
            claim("gradient", None, parameter.grad)


def sparse():
    model = nn.Sequential(nn.Embedding(50, 12, sparse=True), nn.Linear(12, 5))
    optimizers = [torch.optim.SparseAdam([model[0].weight]), torch.optim.SGD(model[1].parameters(), lr=0.1, momentum=0.9)]
    x = torch.randint(0, 50, (4, 5))
    for _ in range(4):
        model(x).square().mean().backward()
        claim("gradient", None, model[0].weight.grad._values())
        for optimizer in optimizers:
            optimizer.step()
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    if torch.is_tensor(value):
                        claim("optimizer_state", None, value, key)
        model.zero_grad()


def lazy():
    model = nn.Sequential(nn.LazyLinear(30), nn.Tanh(), nn.LazyLinear(10))
    optimizer = adam(model)
    train(model, optimizer, torch.randn(7, 20), steps=3)


def complex_numbers():
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(20, 30, dtype=torch.complex64))
            self.register_buffer("phase", torch.ones(20, dtype=torch.complex64))

        def forward(self, x):
            return torch.view_as_real((x * self.phase) @ self.weight)

    model = Waves()
    train(model, adam(model), torch.randn(7, 20))


def low_precision():
    model = net(20, 30, 10).bfloat16()
    model.register_buffer("scale", torch.quantize_per_tensor(torch.randn(1000), 0.1, 0, torch.qint8))
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), torch.randn(7, 20).bfloat16())


def meta():
    """Tensors without memory, beside others; then made real."""
    model = net(20, 30, 10)
    model[1].absent = nn.Linear(100, 100, device="meta")
    train(model.double(), torch.optim.Adam([*model[0].parameters(), *model[2].parameters()]), torch.randn(7, 20).double())
    with torch.device("meta"):
        model = net(20, 30, 10)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    train(model, adam(model), torch.randn(7, 20))


def parametrized():
    model = net(20, 30, 10)
    torch.nn.utils.parametrizations.weight_norm(model[0])
    torch.nn.utils.parametrizations.spectral_norm(model[2])
    train(model, adam(model), torch.randn(7, 20))


def averaged():
    """An average of the weights, evaluated now and then."""
    model = net(20, 30, 10)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    x = torch.randn(7, 20)

    def update():
        average.update_parameters(model)
        with torch.no_grad():
            average(x)
        for parameter in average.parameters():
            claim("parameter", None, parameter)
        claim("buffer", None, average.n_averaged)

    train(model, adam(model), x, after=update)


def frozen():
    """A teacher whose output is the target, and a net of which a part is not trained."""
    model, teacher = net(20, 30, 10), net(20, 31, 10).eval().requires_grad_(False)
    model[0].requires_grad_(False)
    x = torch.randn(7, 20)

    def distance(output):
        with torch.no_grad():
            wanted = teacher(x)
        for parameter in teacher.parameters():
            claim("parameter", None, parameter)
        return functional.mse_loss(output, wanted)

    train(model, torch.optim.Adam(model[2].parameters()), x, loss_of=distance)


def external():
    """Memory that others allocated: NumPy, a mapped checkpoint."""
    class Borrowed(nn.Sequential):
        """A name of its own, that no later model takes over."""

    model = Borrowed(*net(20, 30, 10))
    first = numpy.zeros((30, 20), dtype=numpy.float32)
    model[0].weight = nn.Parameter(torch.from_numpy(first))
    torch.save(net(20, 30, 10)[2].state_dict(), "part.pt")
    model[2].load_state_dict(torch.load("part.pt", mmap=True), assign=True)
    optimizer = adam(model)
    x = torch.randn(7, 20)
    for _ in range(2):
        model(x).square().mean().backward()
        optimizer.step()
        claim("external", "0.weight", model[0].weight)
        claim("mapped", "2.weight", model[2].weight)
        claim("mapped", "2.bias", model[2].bias)
        claim("parameter", "0.bias", model[0].bias)
        for name, parameter in model.named_parameters():
            claim("gradient", name, parameter.grad)
            for key, value in optimizer.state[parameter].items():
                claim("optimizer_state", name, value, key)
        optimizer.zero_grad()


def long_run():
    """Far more steps than are looked at closely."""
    model = net(20, 30, 10)
    train(model, adam(model), torch.randn(7, 20), steps=12)


def copied_gradients():
    """Copies of gradients that are kept for a step, and data that is loaded after step() or between micro-batches."""
    model = net(20, 30, 10)
    optimizer = adam(model)
    copies = []
    for _ in range(4):
        for _ in range(2):
            x, wanted = torch.randn(7, 20), torch.randn(7, 10)
            functional.mse_loss(model(x), wanted).backward()
            claim("input", None, x)
            claim("input", None, wanted)
        for copy_before in copies:
            claim("unknown", None, copy_before)
        copies = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in sys.argv[2:]:
        now.clear()
        globals()[name]()
        claims[name] = list(now)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(claims, file)


if __name__ == "__main__":
    main()
