"""Train GCQL, one policy per patient and one for all, and score both on every patient's own simulator.

python examples/train_and_evaluate.py [DATASET] [BANK] [UPDATES] [EPISODES]
"""

import sys

import medgym_offline as mgo
from medgym_offline.evaluation import compare, print_evaluations, write_report
from medgym_offline.offline import OfflineConfig, train

name, bank, updates, episodes = ["medgym/sepsis-ind-v0", "sepsis-v0", "1000", "50", *sys.argv[1:]][-4:]
if len(sys.argv) not in (1, 5):
    sys.exit(__doc__)

data = mgo.load_dataset(name)
patients = list(data.present_ids)[:8]
worlds = ["own", "crossfit"]  # a simulator is never judged only by itself

evaluations = {}
for scope in ("ind", "pop"):
    trained = train("gcql", data, scope=scope, seed=0, config=OfflineConfig(updates=int(updates)), patients=patients)
    mgo.save_policy(trained.policy, f"gcql-{scope}.safetensors")
    evaluations[f"gcql-{scope}"] = mgo.evaluate(
        f"gcql-{scope}.safetensors",
        patients=patients,
        bank=bank,
        worlds=worlds,
        dataset=data,
        episodes=int(episodes),
        progress=True,
    )

print_evaluations(evaluations)
write_report(evaluations, "gcql.html")
gain = compare(reference=evaluations["gcql-pop"], method=evaluations["gcql-ind"], world="crossfit")
print(f"\nInd over Pop, crossfit world: {gain.percent:+.1f} %, better in {100 * gain.share:.0f} % of patients")
