"""General anesthesia with propofol and norepinephrine: a published truth whose clock is minutes."""

from medgym_offline.diseases.anesthesia.typical import effect_site

__all__ = ["effect_site"]
