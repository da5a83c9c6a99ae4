"""Cards: what the figures are drawn from, and what the text says of parts, worlds and behaviors."""

from __future__ import annotations

import copy as copying
import shlex
from pathlib import Path

from medgym_offline.datasets import GeneratedDataset, dataset_card, load_dataset
from medgym_offline.datasets.card_figures import draw_figures


def test_the_same_rows_give_the_same_pictures(
    made_zero: GeneratedDataset, root: Path, tmp_path: Path, real_figures: None
) -> None:
    """Also where there is one decision only."""
    rows = load_dataset(made_zero.id, root=root, progress=False)
    one, again, least = (
        draw_figures(tmp_path / name, part)
        for name, part in (("one", rows), ("again", rows), ("least", rows.select(slice(0, 1))))
    )
    for figure in one:
        same, other = ((tmp_path / name / figure.file).read_bytes() for name in ("again", "least"))
        assert (tmp_path / "one" / figure.file).read_bytes() == same != other
    assert one == again == least


def test_a_part_says_the_command_that_makes_it(made: GeneratedDataset) -> None:
    part = copying.deepcopy(made.manifest) | {"source": "medgym/whole-v0"}
    part["patients"] = [0, 1]
    part["recipe"]["episodes"] = 3
    command = dataset_card(part).split("make it again: `")[1].split("`")[0]
    assert shlex.split(command) == (
        f"medgym-offline generate medgym/whole-v0 --patients 2 --episodes 3 --as {made.id}".split()
    )
    part["patients"] = [1, 3]
    assert "a part of `medgym/whole-v0`: patients 1, 3 of the bank" in dataset_card(part)
    assert f"make it again: `medgym-offline generate {made.id}`" in dataset_card(made.manifest)
