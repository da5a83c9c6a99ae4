"""Your own algorithm in plain PyTorch: here implicit Q-learning. Train, export, score; then it can be submitted.

python examples/own_policy_torch.py [DATASET] [BANK] [UPDATES] [EPISODES]
"""

import sys

import numpy as np
import torch
from torch import nn

import medgym_offline as mgo

name, bank, updates, episodes = ["medgym/sepsis-ind-v0", "sepsis-v0", "20000", "50", *sys.argv[1:]][-4:]
if len(sys.argv) not in (1, 5):
    sys.exit(__doc__)

data = mgo.load_dataset(name)  # NumPy arrays, one row per decision
columns = (data.observations, data.actions, data.rewards, data.next_observations, data.dt, data.terminations)
states, actions, rewards, following, dt, ended = (torch.from_numpy(np.array(x, dtype=np.float32)) for x in columns)
discount = (1 - ended) * 0.99 ** (dt / 4.8)  # of elapsed time, not of decisions
mean, scale, width = states.mean(0), states.std(0).clamp_min(0.1), actions.shape[1]


class Network(nn.Module):
    """A perceptron that standardizes the nine observation columns itself, so that its file needs nothing else."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.register_buffer("mean", nn.functional.pad(mean, (0, inputs - 9)))
        self.register_buffer("scale", nn.functional.pad(scale, (0, inputs - 9), value=1.0))
        self.body = nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body((x - self.mean) / self.scale)


torch.manual_seed(0)
actor, value = nn.Sequential(Network(9, width), nn.Tanh()), Network(9, 1)
critics, slow = Network(9 + width, 2), Network(9 + width, 2)  # two values each, of which the smaller counts
slow.load_state_dict(critics.state_dict())
optimizer = torch.optim.Adam([*actor.parameters(), *value.parameters(), *critics.parameters()], lr=3e-4)
for _ in range(int(updates)):
    rows = torch.randint(len(states), (256,))
    s, a = states[rows], actions[rows]
    both = torch.cat([s, a], dim=1)
    target = rewards[rows] / rewards.std() + discount[rows] * value(following[rows])[:, 0]
    advantage = slow(both).detach().amin(1) - value(s)[:, 0]
    expectile = (torch.where(advantage < 0, 0.3, 0.7) * advantage**2).mean()
    bellman = ((critics(both) - target.detach()[:, None]) ** 2).sum(1).mean()
    imitation = ((3.0 * advantage.detach()).exp().clamp_max(100.0) * ((actor(s) - a) ** 2).sum(1)).mean()
    optimizer.zero_grad()
    (expectile + bellman + imitation).backward()
    optimizer.step()
    for new, old in zip(critics.parameters(), slow.parameters()):
        old.data.lerp_(new.data, 0.005)

torch.jit.save(torch.jit.script(actor.eval()), "iql.pt")
result = mgo.evaluate("iql.pt", bank=bank, dataset=data, episodes=int(episodes), patients=2)
print(f"two patients: surrogate SOFA {result.metrics['severity_mean']:.2f}, Safe {result.metrics['safe_hourly']:.1f} %")
