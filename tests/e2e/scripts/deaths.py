"""Train a small net and die in one of several ways, in the middle of the third step's backward where that makes sense.

usage: deaths.py WAY
"""

import ctypes
import os
import pathlib
import signal
import sys

import torch
from torch import nn


def recorders():
    """Processes that record this one (none in a run without nnmem)."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"nnmem-record") and any(f"-{os.getpid()}-".encode() in word for word in words[1:]):
                yield int(entry.name)


def kill_recorders():
    for pid in recorders():
        os.kill(pid, signal.SIGKILL)


def die(way):
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "abort":
        os.abort()
    elif way == "segv":
        ctypes.string_at(0)
    elif way == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif way == "os_exit":
        os._exit(7)
    elif way == "sys_exit":
        sys.exit(3)
    elif way == "raise":
        raise RuntimeError("out of patience")
    elif way == "kill_recorder":
        kill_recorders()
    elif way == "kill_both":
        kill_recorders()
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "exec":
        os.execv(sys.executable, [sys.executable, "-c", "print('another program')"])


def main():
    way = sys.argv[1]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5))
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(8, 30)
    for step in range(1, 6):
        hidden = model[:2](x)
        if step == 3:
            hidden.register_hook(lambda gradient: die(way))
        loss = model[2:](hidden).square().mean()
        loss.backward()
        opt.step()
        opt.zero_grad()
        print(f"step {step}: {loss.item():.6f}", flush=True)


main()
