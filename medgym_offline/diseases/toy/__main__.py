"""Build the toy's bank: `python -m medgym_offline.diseases.toy` writes the release's."""

from __future__ import annotations

from medgym_offline.diseases.toy.cohort import build_toy
from medgym_offline.files import release_folder
from medgym_offline.simulators.build import read_recipe


def main() -> None:
    """Read the release's recipe, build, and write."""
    folder = release_folder("generation")
    bank = build_toy(read_recipe(folder / "toy-v0.toml"))
    bank.save(folder / "banks" / "toy-v0.safetensors")
    print(f"{bank.name}: {len(bank)} patients, worlds {', '.join(bank.worlds)}")


if __name__ == "__main__":
    main()
