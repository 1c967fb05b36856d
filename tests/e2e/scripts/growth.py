"""Train a small network STEPS steps in STYLES that leak or do not; write what each step keeps, by its own count.

growth.py STYLE,... STEPS OUT
"""

import collections
import json
import random
import sys

import torch
from torch import nn

styles, steps, out_file = sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3]
random.seed(5)
torch.manual_seed(5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 64)
        self.second = nn.Linear(64, 8)
        self.seen = None

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        if "cat" in styles:
            row = hidden.detach()[:1]
            self.seen = row.clone() if self.seen is None else torch.cat([self.seen, row])
        return self.second(hidden)


net = Net()
optimizer = torch.optim.Adam(net.parameters())
kept = collections.defaultdict(list)  # by style
queue = collections.deque(maxlen=3)


def length_of(step):
    return random.randrange(8, 64) if "lengths" in styles else 8 + 4 * step if "sorted" in styles else 32


def train(step):
    x = torch.randn(length_of(step), 16)
    y = torch.randn(1, 8)
    output = net(x)
    loss = ((output - y) ** 2).mean()
    loss.backward(retain_graph="graph" in styles)
    if "graph" in styles or "losses" in styles:
        kept["losses"].append(loss)
    if "late" in styles and step > steps // 2:
        kept["late"].append(loss.detach() * 2)
    if "outputs" in styles:
        kept["outputs"].append(output.detach())
    if "queue" in styles:
        queue.append(output.detach())
    if "inputs" in styles:
        kept["inputs"].append(x)
    if "gradients" in styles:
        kept["gradients"].append(net.first.weight.grad)
    if "accumulation" in styles:
        for _ in range(2):
            net(torch.randn(32, 16)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 2 and ("evaluation" in styles or "predictions" in styles):
        net.eval()
        with torch.no_grad():
            prediction = net(torch.randn(32, 16))
            if "predictions" in styles:
                kept["predictions"].append(prediction)
        net.train()


for step in range(1, steps + 1):
    train(step)

expected = {}  # bytes a step
for style, tensors in kept.items():
    (expected[style],) = {tensor.untyped_storage().nbytes() for tensor in tensors}
if "cat" in styles:
    expected["cat"] = net.seen.untyped_storage().nbytes() // steps
if "graph" in styles:
    # What one graph keeps: what it saves, each storage once, less what the script holds anyway.
    saved = {}
    mine = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = ((net(torch.randn(32, 16)) - torch.randn(1, 8)) ** 2).mean()
    expected["graph"] = sum(saved.values())

with open(out_file, "w") as out:
    json.dump(expected, out)
