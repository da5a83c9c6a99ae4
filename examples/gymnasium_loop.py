"""The environment by itself: one patient in a plain Gymnasium loop, then many at once.

python examples/gymnasium_loop.py [BANK]
"""

import sys

import gymnasium
import numpy as np

import medgym_offline  # noqa: F401  (registers medgym/Sepsis-v0)

bank = sys.argv[1] if len(sys.argv) > 1 else "sepsis-v0"

# Adaptive timing: three treatments, and how long to hold them. All in [-1, 1].
env = gymnasium.make("medgym/Sepsis-v0", patient=0, bank=bank, timing="adaptive", decisions=20)
observation, info = env.reset(seed=0)
total, done = 0.0, False
print("hour  SOFA  lactate  cost")
while not done:
    oxygen, vasopressor, fluids = 0.0, -0.8, -0.5
    hold = -0.7 if observation[5] > 0 else 0.0  # look again sooner while lactate is above the cohort's mean
    action = np.array([oxygen, vasopressor, fluids, hold], dtype=np.float32)
    observation, reward, terminated, truncated, info = env.step(action)
    total, done = total + float(reward), terminated or truncated
    print(f"{info['time']:4.1f}  {info['sofa']:4.1f}  {info['lactate']:7.2f}  {info['cost']:4.2f}")
print(f"return {total:.2f}\n")

# Fixed timing, many environments in one batched program: no subprocesses.
vector = gymnasium.make_vec("medgym/Sepsis-v0", num_envs=8, bank=bank, timing="fixed", decisions=10)
observations, infos = vector.reset(seed=0)
returns = np.zeros(8)
for _ in range(10):
    observations, rewards, terminations, truncations, infos = vector.step(vector.action_space.sample())
    returns += rewards
print("returns of eight random episodes:", returns.round(1))
