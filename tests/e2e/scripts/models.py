"""Networks of the kinds that people train, built from their configuration; each with its data and its loss.

`resnet18` needs torchvision, `gpt2` transformers; both are made without downloading anything.
"""

import torch
from torch import nn

import nets


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(500, 32)
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 500)

    def forward(self, x):
        return self.head(self.lstm(self.words(x))[0])


def twice(channels_in, channels):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))  # fmt: skip


class UNet(nn.Module):
    def __init__(self, widths=(8, 16, 32)):
        super().__init__()
        self.down = nn.ModuleList(twice(before, width) for before, width in zip((3, *widths), widths))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width // 2, 2, stride=2) for width in widths[:0:-1])
        self.join = nn.ModuleList(twice(width, width // 2) for width in widths[:0:-1])
        self.head = nn.Conv2d(widths[0], 4, 1)

    def forward(self, x):
        skipped = []
        for number, block in enumerate(self.down):
            x = block(self.pool(x) if number else x)
            skipped.append(x)
        skipped.pop()
        for up, join in zip(self.up, self.join):
            x = join(torch.cat((skipped.pop(), up(x)), dim=1))
        return self.head(x)


def lstm():
    x = torch.randint(500, (8, 20))
    return Lstm(), x, x, lambda output: nets.cross_entropy(output, x)


def unet():
    y = torch.randint(4, (2, 32, 32))
    return UNet(), torch.randn(2, 3, 32, 32), y, lambda output: nn.functional.cross_entropy(output, y)


def resnet18():
    import torchvision

    y = torch.randint(10, (4,))
    return torchvision.models.resnet18(num_classes=10), torch.randn(4, 3, 64, 64), y, lambda output: nets.cross_entropy(output, y)


def gpt2():
    import transformers

    config = transformers.GPT2Config(use_cache=False, resid_pdrop=0.1)
    x = torch.randint(config.vocab_size, (1, 64))
    return transformers.GPT2LMHeadModel(config), x, x, lambda output: nets.cross_entropy(output.logits[:, :-1], x[:, 1:])


def make(name):
    """The model, its input, its target and the function from its output to the loss."""
    if name in nets.NETS:
        model, x, y, loss_of = nets.make(name, 64 if name != "transformer" else 4)
        return model, x, y, lambda output: loss_of(output, y)
    return {"lstm": lstm, "unet": unet, "resnet18": resnet18, "gpt2": gpt2}[name]()
