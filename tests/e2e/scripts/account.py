"""A second account of who allocates what, from Python's own stack and PyTorch's anomaly mode; nothing of nnmem is used.

A script that is run under count_preload.so with ACCOUNT set is asked at every allocation where it is:

- Which module: know() gives each module a class of its own, whose _call_impl is a copy that is named after the module:
  the innermost call is the innermost frame of such a name.
- Which phase: the innermost of a backward's frame, a step()'s frame and the script's own during().
- In a backward: the node that runs (torch._C._current_autograd_node()) carries the stack that made it (anomaly mode), and
  with it the names of the modules whose calls were open; a node made by a node is its parent's.

Without ACCOUNT all of this does nothing, so both runs are of the same script.  One thread.
"""

import ctypes
import json
import os
import re
import sys
import types

import torch

WANTED = bool(os.environ.get("ACCOUNT"))
FRAME = re.compile(r'^  File "(.*)", line \d+, in (.*)\n')

account = {}  # style: [[event, size, phase, recompute, root and path of the module or None], ...]
rows = None  # of the style that runs
marks = []  # (frame, phase), innermost last
roots = {}  # class name: how many
callers = {}  # what a checkpoint runs: the module that called checkpoint()


def renamed(function, name):
    code = function.__code__.replace(co_name=name, co_qualname=name)
    copy = types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def know(root, name=None, but=()):
    """The modules of @root but those below @but, in the order in which roots are first called."""
    if not WANTED:
        return root
    if name is None:
        kind = getattr(root, "original_name", type(root).__name__)
        roots[kind] = roots.get(kind, 0) + 1
        name = kind if roots[kind] == 1 else f"{kind}#{roots[kind]}"
    left_out = {id(module) for other in but for module in other.modules()}
    for path, module in root.named_modules():
        if id(module) not in left_out:
            know_as(module, f"{name}:{path}")
    return root


def know_as(module, label):
    """@module alone is "Root:path"."""
    if WANTED and hasattr(module, "_compiled_call_impl") and module._compiled_call_impl is not None:
        inner = module._compiled_call_impl
        module._compiled_call_impl = renamed(lambda *args: inner(*args), f"call:{label}")
    elif WANTED:
        kind = type(module)
        call = renamed(torch.nn.Module._call_impl, f"call:{label}")
        if isinstance(module, torch.jit.ScriptModule):
            module.__dict__["_call_impl"] = types.MethodType(call, module)
            return module
        module.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, "_call_impl": call})
    return module


def part(label, function):
    """@function, whose work outside module calls is @label's ("Root:path"); for what runs again in a checkpoint."""
    return renamed(function, f"part:{label}") if WANTED else function


class During:
    """with during("forward"): the script says in which phase it is."""

    def __init__(self, phase):
        self.phase = phase

    def __enter__(self):
        marks.append((sys._getframe(1), self.phase))

    def __exit__(self, *unused):
        marks.pop()


def kind_of(file, name):
    """What a frame says: ("call", label), ("again", None) for a checkpoint's recomputing, ("engine", None), ("step", None)."""
    if name.startswith(("call:", "part:")):
        return "call", name[5:]
    if file.endswith("torch/utils/checkpoint.py"):
        if name in ("recompute_fn", "backward"):
            return "again", None
        if name == "_checkpoint_without_reentrant_generator":
            return "checkpoint", None
    if name == "_engine_run_backward":
        return "engine", None
    if file.endswith("torch/optim/optimizer.py") and name == "wrapper":
        return "step", None
    return None, None


def label_of_node(node):
    """The module whose call made an autograd node."""
    label = None
    for line in reversed(node.metadata["traceback_"]):
        what, name = kind_of(*FRAME.match(line).groups())
        if what == "call":
            return name
        if what in ("engine", "again"):
            parent = node.metadata.get("parent_")
            return label_of_node(parent) if parent is not None else None
    return label


def where(frame, checkpointed):
    """(phase, recompute, label) of the code that runs in @frame; what is being checkpointed there is added to @checkpointed."""
    call, again = None, False
    while frame is not None:
        what, label = kind_of(frame.f_code.co_filename, frame.f_code.co_name)
        if what == "call":
            call = call or label
        elif what == "again":
            again = True
            if frame.f_code.co_name == "recompute_fn":
                call = call or callers[frame.f_locals["fn"]]
        elif what == "engine":
            if call is None:
                node = torch._C._current_autograd_node()
                call = label_of_node(node) if node is not None else None
                return "backward", int(again), call
            return "backward", 1, call
        elif what == "step":
            return ("optimizer" if call is None else "forward"), 0, call
        elif what == "checkpoint":
            checkpointed.append(frame.f_locals["fn"])
        if marks and marks[-1][0] is frame:
            return marks[-1][1], 0, call
        frame = frame.f_back
    return None, 0, call


def compiles(frame):
    """What a compiler does with constants while it works is left out."""
    while frame is not None:
        if frame.f_code.co_filename.endswith("torch/_dynamo/convert_frame.py"):
            return True
        frame = frame.f_back
    return False


def here(frame):
    if compiles(frame):
        return None, 0, None
    checkpointed = []
    found = where(frame, checkpointed)
    for function in checkpointed:
        callers[function] = found[2]
    return found


def on_allocation(event, size):
    rows.append([event, size, *here(sys._getframe(1))])


listener = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_int64)(on_allocation)


def start(style):
    """What follows belongs to @style."""
    global rows
    if not WANTED:
        return
    rows = account.setdefault(style, [])
    roots.clear()
    torch.set_anomaly_enabled(True, False)
    dynamo = torch._C._dynamo.eval_frame
    skip = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.SKIP)
    for function in (on_allocation, here, compiles, where, kind_of, label_of_node):
        dynamo.set_code_exec_strategy(function.__code__, skip)
    ctypes.CDLL(None).count_preload_listen(listener)


def save():
    if not WANTED:
        return
    ctypes.CDLL(None).count_preload_listen(None)
    torch.set_anomaly_enabled(False, True)
    with open("account.json", "w", encoding="utf-8") as file:
        json.dump(account, file)


during = During
