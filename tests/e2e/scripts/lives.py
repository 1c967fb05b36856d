"""A net that does what the view lifetimes is there to show, and a layer that is called three times in a step.

usage: lives.py OUT.json

Gradients are only cleared in the next step, after its forward; the hidden activation is kept by a variable until then.  What
the layers' tensors measure is written to OUT.json.
"""

import json
import sys

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 256)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
        self.again = nn.Linear(256, 256)
        self.last = nn.Linear(256, 10)

    def forward(self, x):
        x = self.body(self.first(x))
        for _ in range(3):
            x = torch.tanh(self.again(x))
        self.kept = torch.sigmoid(x)
        return self.last(self.kept)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    layers = {}
    for name, module in model.named_modules():
        own = [parameter for _, parameter in module.named_parameters(recurse=False)]
        everything = list(module.parameters())
        layers[name] = {
            "own": sum(p.numel() * p.element_size() for p in own),
            "subtree": sum(p.numel() * p.element_size() for p in everything),
        }
    state = sum(
        value.numel() * value.element_size() for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value)
    )
    values = sum(value.numel() for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value))
    kept = model.kept.numel() * model.kept.element_size()
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"layers": layers, "state": state, "state_values": values, "kept": kept}, file)


main()
