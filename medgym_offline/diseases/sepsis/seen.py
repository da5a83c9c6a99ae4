"""What is measured at the bedside: errors of the instruments, and when each is read."""

from __future__ import annotations

from medgym_offline.diseases.base import Channel, View

__all__ = ["VIEWS"]

# Gap (h), spread, between and never are those of the release's cohort, see `tests/diseases/sepsis/test_seen.py`.
# Delay (h): chosen, a blood gas analyzer near the ward, and the central laboratory. Saturation is on the monitor.
_CHARTED = (
    # SD, points: ISO 80601-2-61 allows 4; makers of pulse oximeters state 2.
    Channel("spo2", 2.0),
    # 42 CFR 493.931 (CLIA) lets a laboratory err by 15 % (oxygen) and 20 % (bilirubin), which are about two SD.
    Channel("pao2", relative=0.075, gap=7.6, spread=0.72, between=1.2, never=0.14, delay=0.5),
    Channel("bilirubin", relative=0.10, gap=29.0, spread=0.43, between=0.69, never=0.39, delay=2.0),
    # Two raters agree on the total in 32 % of the patients (Gill et al., Ann Emerg Med 43:215, 2004): SD 0.86 each.
    Channel("gcs", 0.86, gap=4.1, spread=0.21, between=0.2),
    # Chosen: a bag read to a tenth.
    Channel("urine", relative=0.10, gap=1.4, spread=0.15, between=0.29),
    # Chosen: blood gas analyzers repeat within about 5 %.
    Channel("lactate", relative=0.05, gap=12.0, spread=0.76, between=0.94, never=0.12, delay=0.5),
)

VIEWS = {
    "noisy": View(tuple(Channel(c.component, c.error, c.relative) for c in _CHARTED)),
    "charted": View(_CHARTED),
}
