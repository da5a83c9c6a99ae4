"""Which entries may be compared, and their ranks: entries whose intervals overlap share one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["RULE", "WORLDS", "Entry", "deciding_world", "groups", "interval_of", "ranks", "worlds_of"]

Entry = Mapping[str, Any]

WORLDS = ("own", "crossfit", "true")

RULE = (
    "Ranks go by mean surrogate SOFA over the 96 hours (lower is better), in each world. Going down from the best, an "
    "entry whose interval reaches that of the entry which leads the current rank shares that rank (written 1=); the "
    "next rank counts the entries before it. A shared rank means that these numbers do not tell the entries apart."
)
"""The rule of :func:`ranks` in words, as pages state it."""

_METRIC = "severity_mean"


def groups(entries: Sequence[Entry]) -> dict[tuple[str, ...], list[Entry]]:
    """Entries that may be compared: same data, bank, protocol with its deviations, and patients.

    Keys are (dataset or bank, how it was evaluated, then hashes that keep groups apart). Groups that follow the
    protocol come first; entries are sorted by mean surrogate SOFA in their :func:`deciding_world`, smallest first.
    """
    found: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        found[_group(entry)].append(entry)
    order = sorted(found, key=lambda key: (_departures(found[key][0]) != [], key))
    return {key: sorted(found[key], key=lambda e: (e["metrics"][deciding_world(e)][_METRIC], e["id"])) for key in order}


def _group(entry: Entry) -> tuple[str, ...]:
    protocol = entry["protocol"]
    settings = protocol["settings"]
    data = entry["dataset"]["id"] if entry["dataset"] else f"bank {entry['bank']['name']}"
    rows = (entry["dataset"] or {}).get("identity") or ""
    count = f"{len(protocol['patients'])} patients" if protocol["patients"] else "all patients"
    how = f"{settings['name']}: {count}, {settings['episodes']} episodes each, seed {settings['seed']}"
    if departs := _departures(entry):
        how += f" (departs from the protocol in {', '.join(departs)})"
    worlds = ",".join(settings["worlds"])
    return (
        data,
        how,
        protocol["hash"],
        entry["bank"]["content_hash"],
        rows,
        worlds,
        ",".join(protocol["patients"] or []),
    )


def _departures(entry: Entry) -> list[str]:
    return sorted(set(entry["protocol"]["deviations"]) - {"bank"})


def worlds_of(entries: Sequence[Entry]) -> list[str]:
    """Worlds that any of the entries has, in the order own, held-out, true."""
    return [world for world in WORLDS if any(world in entry["metrics"] for entry in entries)]


def deciding_world(entry: Entry) -> str:
    """The strictest world that an entry has: the true one, else the held-out one, else its own."""
    return worlds_of([entry])[-1]


def interval_of(entry: Entry, world: str, metric: str) -> tuple[float, float] | None:
    """An entry's interval of a metric; its value twice where it has no interval, None where it has no value."""
    value = entry["metrics"].get(world, {}).get(metric)
    if value is None:
        return None
    low, high = entry["intervals"].get(world, {}).get(metric, (value, value))
    return low, high


def ranks(entries: Sequence[Entry], world: str) -> dict[str, tuple[int, bool]]:
    """Rank of every entry that has a world, by id, and whether it is shared (see :data:`RULE`)."""
    rows = [e for e in entries if world in e["metrics"]]
    rows.sort(key=lambda e: (e["metrics"][world][_METRIC], e["id"]))
    found: dict[str, int] = {}
    top, current = -float("inf"), 0
    for number, row in enumerate(rows, 1):
        interval = interval_of(row, world, _METRIC)
        assert interval is not None
        if interval[0] > top:
            current, top = number, interval[1]
        found[row["id"]] = current
    taken = list(found.values())
    return {name: (rank, taken.count(rank) > 1) for name, rank in found.items()}
