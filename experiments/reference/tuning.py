"""Settings of learners that were tried for the reference table, in the simulators.

python -m experiments.reference.tuning run tuning-diabetes; python -m experiments.reference.tuning tables
"""

from experiments.reference import table

if __name__ == "__main__":
    table.main("tuning")
