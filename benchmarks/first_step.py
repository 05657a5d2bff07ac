"""A script as a student starts it, up to its first step: prints a line once that is made."""

import torch
from torch import nn
from torch.nn import functional

network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
images, labels = torch.rand(64, 1, 8, 8), torch.randint(10, (64,))
optimizer.zero_grad()
functional.cross_entropy(network(images), labels).backward()
optimizer.step()
print("step", flush=True)
