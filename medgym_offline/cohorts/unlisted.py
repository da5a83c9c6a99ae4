"""Infusions under item ids that no list names: never read as what they are not, and never passed over in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.drugs import mentions_vasopressor
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.tables import collect, find_table, scan_table

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LISTED", "count_unlisted", "reject_unlisted"]

#: Infusions that are read.
LISTED: tuple[str, ...] = (*items.PRESSOR_ITEMS, *items.FLUID_ITEMS)
_CATEGORIES = ("ordercategoryname", "secondaryordercategoryname")
#: Items named in one reason.
_NAMED = 10


def count_unlisted(folder: Path, table: str, rejections: Rejections) -> None:
    """Count the orders of `table` that look like vasopressors or fluids and are not read, by item; see
    `reject_unlisted`. Items are named by the folder's d_items table, where there is one.
    """
    pl = require_polars()
    frame = scan_table(folder, table, ("itemid", "amountuom"), optional=_CATEGORIES)
    keys = frame.collect_schema().names()
    groups = collect(frame.filter(~pl.col("itemid").is_in(LISTED)).group_by(keys).len(), folder / table)
    labels = {}
    if find_table(folder, "d_items") is not None:
        labels = dict(collect(scan_table(folder, "d_items", ("itemid", "label")), folder / "d_items").iter_rows())
    reject_unlisted(groups, labels, rejections)


def reject_unlisted(groups: pl.DataFrame, labels: Mapping[str, str], rejections: Rejections) -> None:
    """Count unlisted orders under a reason that names the item.

    By label where it mentions a vasopressor; by the category of the order where that gives fluids and the amount is
    a volume; a drip without a label by its category. Where neither label nor category is known, all such items are
    one reason. What a label says to be another drug is none of the cohort's business, and not counted.

    Args:
        groups: itemid, len (orders) and, where known, amountuom, ordercategoryname, secondaryordercategoryname.
        labels: Item -> words.
        rejections: Counts are added here.
    """
    nameless: dict[str, int] = {}
    categorised = "ordercategoryname" in groups.columns
    for row in groups.sort("itemid").iter_rows(named=True):
        item = row["itemid"] or ""
        label = labels.get(item) or items.UNREAD_ITEMS.get(item)
        name = f"item {item} ({label})" if label else f"item {item}"
        categories = [(row.get(column) or "").strip() for column in _CATEGORIES]
        volume = (row.get("amountuom") or "").strip().lower() in ("ml", "l")
        if mentions_vasopressor(label or ""):
            rejections.reject(f"vasopressor: {name} is not in the list of items, not read", row["len"])
        elif volume and any(category in items.FLUID_CATEGORIES for category in categories):
            rejections.reject(f"fluids: {name} is not in the list of items, not read", row["len"])
        elif not label and categories[0] == items.DRIP_CATEGORY:
            rejections.reject(f"vasopressor or another drip: {name} is not in the list of items, not read", row["len"])
        elif not label and not categorised:
            nameless[item] = nameless.get(item, 0) + row["len"]
    if nameless:
        most = sorted(nameless, key=lambda item: -nameless[item])
        more = f" and {len(most) - _NAMED} more" if len(most) > _NAMED else ""
        rejections.reject(
            f"infusion: items not read, and no d_items table names them: {', '.join(most[:_NAMED])}{more}",
            sum(nameless.values()),
        )
