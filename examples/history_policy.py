"""Policies that remember: cloning with the last observation, with the last eight, and with a recurrent network.

python examples/history_policy.py [DATASET] [BANK] [UPDATES] [EPISODES]
"""

import sys

import gymnasium
import numpy as np

import medgym_offline as mgo
from medgym_offline.offline import OfflineConfig, train

name, bank, updates, episodes = ["medgym/sepsis-ind-v0", "sepsis-v0", "1000", "50", *sys.argv[1:]][-4:]
if len(sys.argv) not in (1, 5):
    sys.exit(__doc__)

data = mgo.load_dataset(name)
patients = list(data.present_ids)[:2]

# history=n works with every algorithm; `decision-transformer` and `gru-iql` are the other two made for it.
for algorithm, history in (("bc", 1), ("bc", 8), ("gru-bc", 8)):
    config = OfflineConfig(updates=int(updates), history=history)
    policy = train(algorithm, data, seed=0, config=config, patients=patients).policy
    file = mgo.save_policy(policy, f"{algorithm}-{history}.safetensors")
    score = mgo.evaluate(file, bank=bank, patients=patients, episodes=int(episodes))
    print(f"{algorithm} with history={history}: return {score.metrics['return']:.2f}")

# By hand: one patient, one episode. The memory begins anew by itself when a new episode does.
policy = mgo.load_policy(file).select(patients[:1])
env = gymnasium.make("medgym/Sepsis-v0", patient=patients[0], bank=bank)
observation, info = env.reset(seed=0)
total, done = 0.0, False
while not done:
    action = policy.act(observation[None, None])[0, 0]
    observation, reward, terminated, truncated, info = env.step(np.asarray(action))
    total, done = total + float(reward), terminated or truncated
print(f"by hand: an episode's return is {total:.2f}")
