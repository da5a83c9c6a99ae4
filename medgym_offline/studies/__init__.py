"""Studies: many policies trained, scored in every world of a bank and written down as one folder.

A study is a recipe (TOML, in `evaluation/`) and what came of it: numbers with provenance, tables, figures, one page.
"""

from __future__ import annotations

from medgym_offline.studies.recipe import StudyRecipe, load_study_recipe

__all__ = ["StudyRecipe", "load_study_recipe"]
