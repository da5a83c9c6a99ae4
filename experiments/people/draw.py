"""Draws again what `generation/splits.toml` holds, from its counts and seeds.

python -m experiments.people.draw
"""

from __future__ import annotations

from medgym_offline import load_simulators
from medgym_offline.files import release_folder, write_text
from medgym_offline.simulators.bank import FILE, drawn, read_draws

__all__ = ["text"]

HEAD = """\
# Who is new: people of banks that were built without sides, drawn once, before anything was derived, by
#   python -m experiments.people.draw
# from `count` and `seed`: test are those with the least number derived from seed and id.
"""


def text() -> str:
    """The file, drawn from its own counts and seeds."""
    lines = []
    for name, draw in read_draws().items():
        sides = drawn(load_simulators(draw.banks[0]).patients, draw.count, draw.seed)
        banks = ", ".join(f'"{bank}"' for bank in draw.banks)
        lines += ["", f"[{name}]", f"banks = [{banks}]", f"count = {draw.count}", f"seed = {draw.seed}"]
        for side, people in sides.items():
            lines += [f"{side} = [", *(f'    "{p}",' for p in people), "]"]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(release_folder("generation") / FILE, text())
