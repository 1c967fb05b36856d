import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5))

    def forward(self, x):
        return self.body(x)


torch.set_num_threads(1)
model = Net()
opt = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(8, 30)
for _ in range(3):
    model(x).square().mean().backward()
    opt.step()
    opt.zero_grad()
print("done")
