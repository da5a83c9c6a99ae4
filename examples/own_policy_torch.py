"""Your own algorithm in plain PyTorch: here behavior cloning. Train, score, export; then it can be submitted.

python examples/own_policy_torch.py [DATASET] [BANK] [UPDATES] [EPISODES]
"""

import sys

import numpy as np
import torch
from torch import nn

import medgym_offline as mgo

name, bank, updates, episodes = ["medgym/sepsis-ind-v0", "sepsis-v0", "2000", "50", *sys.argv[1:]][-4:]
if len(sys.argv) not in (1, 5):
    sys.exit(__doc__)

data = mgo.load_dataset(name)
observations = torch.from_numpy(np.asarray(data.observations))
actions = torch.from_numpy(np.asarray(data.actions))

torch.manual_seed(0)
network = nn.Sequential(
    nn.Linear(9, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, actions.shape[1]), nn.Tanh()
)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
for update in range(int(updates)):
    rows = torch.randint(len(observations), (256,))
    loss = nn.functional.mse_loss(network(observations[rows]), actions[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if update % 500 == 0:
        print(f"update {update}: loss {loss.item():.4f}")


class MyPolicy:
    """All an evaluation needs: observations (patients, episodes, 9) in, actions (patients, episodes, 3 or 4) out."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(observations)).numpy()


result = mgo.evaluate(MyPolicy(), bank=bank, dataset=data, episodes=int(episodes), patients=2)
print(f"two patients: surrogate SOFA {result.metrics['severity_mean']:.2f}, Safe {result.metrics['safe_hourly']:.1f} %")

# A file that others can run without your code: TorchScript (ONNX and our safetensors work as well).
torch.jit.save(torch.jit.trace(network.eval(), observations[:2]), "cloned.pt")
print(f"now: medgym-offline eval --policy cloned.pt --bank {bank} --dataset {name} --output result")
print("     medgym-offline submit result --name Cloning --output submission")
