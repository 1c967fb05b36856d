"""A few steps of a small network, on the main thread and on one of Python's, then a list of tensors made by C++ alone."""

import sys
import threading

import torch


def work():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 6, 5))
    optimizer = torch.optim.AdamW(net.parameters(), foreach=False)
    for _ in range(3):
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


torch.manual_seed(0)
work()
if "thread" in sys.argv:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
