"""What the forkserver does before it forks the first runner: import torch, and build one optimiser, a second's work."""

import torch
from torch import nn

import worker.runner  # noqa: F401 - imported for its imports

torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
