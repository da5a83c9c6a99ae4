"""Build the toy's bank: `python -m medgym_offline.diseases.toy` writes the release's."""

from medgym_offline.diseases.toy.cohort import build_toy
from medgym_offline.files import release_folder
from medgym_offline.simulators.build import read_recipe
from medgym_offline.simulators.files import ship

if __name__ == "__main__":
    ship(build_toy(read_recipe(release_folder("generation") / "toy-v0.toml")))
