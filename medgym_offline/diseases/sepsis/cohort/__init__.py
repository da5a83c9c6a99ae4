"""Sepsis cohorts: what they hold (`COHORT`), their odd cases, and synthetic records of patients with known dynamics."""

from medgym_offline.diseases.sepsis.cohort.definition import COHORT

__all__ = ["COHORT"]
