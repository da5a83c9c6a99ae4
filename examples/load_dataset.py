"""Load a dataset and look at it. Every row is one decision, with how long it lasted and what it cost.

python examples/load_dataset.py [DATASET]
"""

import sys

import numpy as np

import medgym_offline as mgo

name = sys.argv[1] if len(sys.argv) > 1 else "medgym/sepsis-ind-v0"

for info in mgo.list_datasets():
    print(f"{info.id:32} {info.description}")

data = mgo.load_dataset(name)  # generated from its recipe the first time
episodes = len(np.unique(data.episode))
print(f"\n{name}: {len(data):,} decisions in {episodes:,} episodes of {len(np.unique(data.patient))} patients")
print(f"observations {data.observations.shape}, actions {data.actions.shape}, {data.timing} timing")

# The irregular clock: decisions last from half an hour to 36 hours, and every episode ends at hour 96.
print("hours between decisions (5, 50, 95 %):", np.percentile(data.dt, [5, 50, 95]).round(1))
print("episodes end at hour", set(data.time[data.terminations].round(3).tolist()))

# One patient's data is a boolean mask away, or `patients=` when loading.
first = data.patients[data.patient[0]]
one = mgo.load_dataset(name, patients=[first])
print(f"\npatient {first}: {len(one):,} decisions")
print(
    f"surrogate SOFA {one.severity.mean():.2f}, lactate {one.monitored.mean():.2f} mmol/L, cost {one.costs.mean():.3f}"
)
