"""Train a model for a few steps, and say who held which memory when: by the tensors themselves, nothing of nnmem is used.

usage: owners.py MODEL OPTIMIZER STEPS OUT.json

Runs under count_preload.so: every fact carries the number of events so far, so that it can be set beside the log.
- named: [events, kind, name, key, address, bytes]: at that moment this storage was that of a parameter, buffer, gradient,
  optimizer state, input or something that the script holds itself.
- saved: [events, address, bytes]: autograd saved it for backward (saved_tensors_hooks).
- calls: [events, path, 1 or -1]: a module's call began or ended.
- steps: [start, backward begins, backward has ended, the step has ended].
"""

import ctypes
import json
import sys

import torch

import models
import nets

events = ctypes.CDLL(None).count_preload_events
events.restype = ctypes.c_uint64

named, saved, calls, steps = [], [], [], []


def say(kind, name, key, tensor):
    storage = tensor.untyped_storage()
    named.append([events(), kind, name, key, storage.data_ptr(), storage.nbytes()])


def say_all(model, opt):
    for name, parameter in model.named_parameters():
        say("parameter", name, None, parameter)
        if parameter.grad is not None:
            say("gradient", name, None, parameter.grad)
        for key, value in (opt.state.get(parameter) or {}).items():
            if torch.is_tensor(value):
                say("optimizer_state", name, key, value)
    for name, buffer in model.named_buffers():
        say("buffer", name, None, buffer)


def watch_calls(model):
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *unused, path=path: calls.append([events(), path, 1]))
        module.register_forward_hook(lambda *unused, path=path: calls.append([events(), path, -1]))


def pack(tensor):
    storage = tensor.untyped_storage()
    saved.append([events(), storage.data_ptr(), storage.nbytes()])
    return tensor.detach()


def tensors_in(value):
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def main():
    name, optimizer, nr_steps, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x, y, loss_of = models.make(name)
    opt = nets.OPTIMIZERS[optimizer](model.parameters())
    watch_calls(model)
    for _ in range(nr_steps):
        start = events()
        say("input", "x", None, x)
        say("input", "y", None, y)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(x)
            loss = loss_of(output)
        for held in (*tensors_in(output), loss):
            say("held", "output or loss", None, held)
        backward = events()
        loss.backward()
        ended = events()
        say_all(model, opt)
        opt.step()
        say_all(model, opt)
        opt.zero_grad()
        del output, loss, held
        steps.append([start, backward, ended, events()])
    with open(out, "w", encoding="utf-8") as file:
        json.dump({"named": named, "saved": saved, "calls": calls, "steps": steps}, file)


main()
