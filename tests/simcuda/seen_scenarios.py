"""What stands between a profiler of the program's own and CUPTI is tried with: `python seen_scenarios.py NAME`."""

import sys
import threading
import time

import torch

ACTIVITIES = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]


class Training:
    """A small network whose matrix products have cuBLAS take a workspace."""

    def __init__(self):
        layers = [torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)]
        self.model = torch.nn.Sequential(*layers).cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def step(self):
        self.model(torch.randn(64, 512, device="cuda")).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def elsewhere(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def plain():
    training = Training()
    for _ in range(4):
        training.step()
    torch.cuda.synchronize()


def profiled():
    """Segments come and go before, in, between and after three sessions of the profiler, on this thread and on another."""
    training = Training()
    training.step()
    kept = []
    for i in range(3):
        with torch.profiler.profile(activities=ACTIVITIES) as profiler:
            training.step()
            kept.append(torch.empty(1 << (22 + i), device="cuda"))
            elsewhere(lambda: kept.append(torch.empty(5 << 20, device="cuda")))
        profiler.export_chrome_trace(f"trace-{i}.json")
        training.step()
        kept.append(torch.empty((1 << (22 + i)) + 1, device="cuda"))
        kept.pop(0)
        torch.cuda.empty_cache()
    torch.cuda.synchronize()


def profiled_at_once():
    """The profiler is CUPTI's client before anything else is."""
    with torch.profiler.profile(activities=ACTIVITIES) as profiler:
        training = Training()
        training.step()
    profiler.export_chrome_trace("trace-0.json")
    training.step()


def finalized():
    """Somebody ends CUPTI for all; another thread's products have another workspace."""
    import ctypes

    training = Training()
    training.step()
    assert ctypes.CDLL(None).cuptiFinalize() == 0
    kept = [torch.empty(30 << 20, device="cuda")]
    elsewhere(lambda: kept.append(kept[0][: 1 << 20].view(1024, 1024) @ kept[0][: 1 << 20].view(1024, 1024)))
    torch.cuda.synchronize()


def slow():
    """Two steps, the second long after the first, so that what comes late comes."""
    training = Training()
    training.step()
    time.sleep(0.3)
    training.step()
    time.sleep(0.3)
    training.step()


globals()[sys.argv[1]]()
# The engine's threads let go of what a backward held after it has returned; one that needs the interpreter while it is taken down
# is ended by it, in the midst of C++ that cannot be left so, and the process aborts.
torch.cuda.synchronize()
time.sleep(0.5)
