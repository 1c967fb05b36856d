"""The networks of the end-to-end tests: small enough to check by hand, each with its input, target and loss.

E1 is a dense 3-4-5-2 net with a squared error, E2 a convolutional net on 50 x 50 images, E3 one on 28 x 28 images;
`transformer` is the net with many small tensors.  Everything here is plain PyTorch: nothing knows of nnmem.
"""

import torch
from torch import nn


def e1(relu=False):
    layers = [nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)]
    if relu:
        layers = [layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]]
    return nn.Sequential(*layers)


def e2():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(9216, 500), nn.ReLU(), nn.Linear(500, 10))  # fmt: skip


def e3():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6272, 128), nn.ReLU(), nn.Linear(128, 10))  # fmt: skip


class Transformer(nn.Module):
    """About 2 400 allocations and frees in a training step, most of them small."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.encoder(x))


def cross_entropy(output, target):
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())


# name: (net, input shape without the batch, what the target is made of, loss)
NETS = {
    "E1": (e1, (3,), (2,), nn.functional.mse_loss),
    "E1+ReLU": (lambda: e1(relu=True), (3,), (2,), nn.functional.mse_loss),
    "E2": (e2, (3, 50, 50), 10, cross_entropy),
    "E3": (e3, (1, 28, 28), 10, cross_entropy),
    "transformer": (Transformer, (16, 64), 10, cross_entropy),
}

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.001),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.001, foreach=False),
}


def make(name, batch):
    """The net, an input, a target and the loss function of NETS[name]."""
    net, shape, target, loss = NETS[name]
    model = net()
    x = torch.randn(batch, *shape)
    if isinstance(target, tuple):
        y = torch.randn(batch, *target)
    elif name == "transformer":
        y = torch.randint(0, target, (batch, shape[0]))
    else:
        y = torch.randint(0, target, (batch,))
    return model, x, y, loss
