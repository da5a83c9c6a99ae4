"""Studies: many policies trained, scored in every world of a bank and written down as one folder.

A study is a recipe (TOML, in `evaluation/`) and what came of it: numbers with provenance, tables, figures, one page.
"""

from __future__ import annotations

from medgym_offline.studies.online import load_study, run_online_study
from medgym_offline.studies.page import write_study_page
from medgym_offline.studies.recipe import StudyRecipe, load_study_recipe

__all__ = ["StudyRecipe", "load_study", "load_study_recipe", "run_online_study", "write_study_page"]
