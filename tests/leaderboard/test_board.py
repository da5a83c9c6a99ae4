"""The board: sorted, idempotent, locked; the schema; the page."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medgym_offline.errors import SubmissionError
from medgym_offline.files import release_folder
from medgym_offline.leaderboard import (
    add_entry,
    build_page,
    entry_id,
    entry_schema,
    read_board,
    read_submission,
    sealed,
)
from medgym_offline.leaderboard.ranking import deciding_world, groups, ranks
from medgym_offline.leaderboard.schema import violations
from tests.leaderboard.workshop import Workshop, refused, run


@pytest.fixture
def entry(shop: Workshop) -> dict[str, Any]:
    """A real entry."""
    assert run("submit", shop.result(0), "--name", "Method", "--output", "submission").code == 0
    return read_submission("submission").entry


def variant(entry: dict[str, Any], name: str, sofa: float | None = None) -> dict[str, Any]:
    """The same entry under another name, with other policies."""
    other = copy.deepcopy(entry)
    other["name"] = name
    other["policies"][0]["sha256"] = f"{abs(hash(name)):064x}"[:64]
    other["id"] = entry_id(other)
    if sofa is not None:
        for world in other["metrics"]:
            other["metrics"][world]["sofa_all"] = sofa
            other["intervals"][world]["sofa_all"] = [sofa - 0.1, sofa + 0.1]
    return other


def test_adding_is_idempotent_and_sorted(entry: dict[str, Any]) -> None:
    board = Path("board.json")
    for name in ("zeta", "alpha", "mu"):
        assert add_entry(variant(entry, name), board)
    before = board.read_bytes()
    assert not add_entry(variant(entry, "alpha"), board)
    assert board.read_bytes() == before
    assert [e["name"] for e in read_board(board)] == ["alpha", "mu", "zeta"]
    other = Path("other.json")
    for name in ("alpha", "zeta", "mu"):
        add_entry(variant(entry, name), other)
    assert other.read_bytes() == before


def test_taken_names_and_copied_policies_are_refused(entry: dict[str, Any]) -> None:
    add_entry(entry, "board.json")
    changed = variant(entry, "METHOD!")  # the same id, since the names look alike
    with pytest.raises(SubmissionError, match="different entry"):
        add_entry(changed, "board.json")
    renamed = copy.deepcopy(entry) | {"name": "Mine"}
    renamed["id"] = entry_id(renamed)
    with pytest.raises(SubmissionError, match="already has these policies"):
        add_entry(renamed, "board.json")
    assert len(read_board("board.json")) == 1


def test_a_verification_is_recorded_and_kept(entry: dict[str, Any]) -> None:
    record = {"accepted": True, "version": "x", "result_hash": "0" * 64, "largest_deviation": 0.0, "fresh_seeds": True}
    signed = sealed(entry, record)
    add_entry(entry, "board.json")
    assert add_entry(signed, "board.json")
    assert not add_entry(entry, "board.json")
    assert read_board("board.json")[0] == signed
    assert signed["verification"] == record | {"seal": signed["verification"]["seal"]}


@pytest.mark.parametrize(
    "edit",
    [
        lambda e: e["metrics"]["own"].update(sofa_all=1.0),
        lambda e: e["policies"][0].update(sha256="0" * 64),
        lambda e: e["verification"].update(version="other"),
        lambda e: e["verification"].update(fresh_seeds=False),
        lambda e: e["authors"].append("Somebody Else"),
    ],
)
def test_a_seal_shows_what_was_changed_after_verification(entry: dict[str, Any], edit: Callable[[Any], None]) -> None:
    record = {"accepted": True, "version": "x", "result_hash": "0" * 64, "largest_deviation": 0.0, "fresh_seeds": True}
    signed = sealed(entry, record)
    add_entry(signed, "board.json")
    edited = copy.deepcopy(signed)
    edit(edited)
    with pytest.raises(SubmissionError, match="changed after it was verified"):
        add_entry(edited, "another.json")
    Path("board.json").write_text(json.dumps({"format": "medgym-leaderboard/1", "entries": [edited]}))
    with pytest.raises(SubmissionError, match=r"board\.json: entry .* changed after it was verified"):
        read_board("board.json")


def test_adds_at_once_lose_nothing(entry: dict[str, Any]) -> None:
    code = (
        "import json, sys; from medgym_offline.leaderboard import add_entry\n"
        "for e in json.load(open(sys.argv[1])): add_entry(e, 'board.json')"
    )
    workers = []
    for w in range(2):
        Path(f"{w}.json").write_text(json.dumps([variant(entry, f"worker {w} entry {n}") for n in range(12)]))
        workers.append(subprocess.Popen([sys.executable, "-c", code, f"{w}.json"]))
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    assert len(read_board("board.json")) == 24


def test_a_damaged_board_is_refused_and_not_overwritten(entry: dict[str, Any]) -> None:
    board = Path("board.json")
    for text in ("{", "[]", '{"format": "x", "entries": []}', '{"format": "medgym-leaderboard/1", "entries": [{}]}'):
        board.write_text(text)
        with pytest.raises(SubmissionError, match=r"board\.json"):
            add_entry(entry, board)
        assert board.read_text() == text


def test_the_shipped_board_and_schema_are_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(entry_schema())
    read_board(release_folder("leaderboard") / "leaderboard.json")


def test_our_validator_agrees_with_jsonschema(entry: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(entry_schema())

    def both(value: Any) -> bool:
        ours = not list(violations(value, entry_schema()))
        assert ours == validator.is_valid(value), value
        return ours

    assert both(entry)
    assert both(entry | {"links": [], "code": None, "dataset": None, "compute": None})
    assert both(entry | {"links": ["https://x.org/a"] * 8, "code": "http://x"})
    for links in (["https://x.org"] * 9, ["javascript:alert(1)"], ["https://a b"], "https://x.org"):
        assert not both(entry | {"links": links})
    for field in entry:
        assert not both({k: v for k, v in entry.items() if k != field})
        for value in (None, True, 1.5, -1, "x", "", [], ["x"], {}, {"x": 1}, [{}], "a/b/c/d"):
            both(entry | {field: value})
    deep = [("protocol", "hash"), ("protocol", "patients"), ("bank", "content_hash"), ("dataset", "id")]
    for field, inner in deep:
        for value in (None, 1, "x", [], [""], "0" * 64):
            both(entry | {field: entry[field] | {inner: value}})
    for policy in ({}, {"builtin": "zero"}, {"builtin": "evil"}, entry["policies"][0] | {"builtin": "zero"}):
        both(entry | {"policies": [policy]})


class _Page(HTMLParser):
    """Tags, texts and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "link", "br", "input"):
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and ("td" in self.stack or "th" in self.stack):
            self.rows[-1].append(data)


def test_the_page_ranks_ties_and_escapes(entry: dict[str, Any]) -> None:
    rows = [
        variant(entry, "worst", 9.0),
        variant(entry, "best", 3.0),
        variant(entry, "tied", 3.15),
        variant(entry, "third", 4.0),
    ]
    rows[0]["authors"] = ["<script>alert(1)</script>"]  # no schema between: the page escapes by itself
    page = build_page(rows, "site")
    parsed = _Page()
    parsed.feed(page.read_text())
    assert parsed.stack == []
    assert "<script>alert" not in page.read_text()
    ids = [f"entries/{name}_workshop-v0_ind_adaptive-20.html" for name in ("best", "tied", "third", "worst")]
    assert [a for a in parsed.addresses if not a.startswith("#")] == ["data:,", *ids, "leaderboard.json"]
    shown = [" ".join(part.strip() for part in row) for row in parsed.rows[2:]]
    expected = [("best", "rank 1 = shared"), ("tied", "rank 1 = shared"), ("third", "rank 3 :"), ("worst", "rank 4 :")]
    assert len(shown) == len(expected)
    for row, (name, rank) in zip(shown, expected):
        assert row.startswith(name)
        assert row.count(rank) == 2  # in either world
    assert json.loads(Path("site/leaderboard.json").read_text())["entries"] == rows
    for name in ids:
        own = _Page()
        own.feed((Path("site") / name).read_text())
        assert own.stack == []
        assert "script" not in own.tags
        assert "http-equiv" in (Path("site") / name).read_text()
        assert json.loads((Path("site") / name).with_suffix(".json").read_text()) in rows


def test_ranks_are_shared_while_intervals_reach_the_leader(entry: dict[str, Any]) -> None:
    # Intervals of half width 0.1: 3.0 leads 3.15 and 3.2 (which touches), not 3.35, although that reaches 3.2's.
    rows = [variant(entry, f"m{value}", value) for value in (3.35, 3.0, 3.2, 3.15, 5.0)]
    found = {name.partition("/")[0]: rank for name, rank in ranks(rows, "own").items()}
    assert found == {"m3-0": (1, True), "m3-15": (1, True), "m3-2": (1, True), "m3-35": (4, False), "m5-0": (5, False)}


def test_the_strictest_world_orders_a_table(entry: dict[str, Any]) -> None:
    flattered, honest = variant(entry, "flattered", 3.0), variant(entry, "honest", 3.0)
    flattered["metrics"]["held-out"]["sofa_all"] = 8.0
    honest["metrics"]["own"]["sofa_all"] = 4.0
    (rows,) = groups([flattered, honest]).values()
    assert [row["name"] for row in rows] == ["honest", "flattered"]
    assert deciding_world(honest) == "held-out"


def test_own_held_out_and_true_worlds_stand_side_by_side(entry: dict[str, Any]) -> None:
    other = copy.deepcopy(entry)
    other["protocol"]["settings"]["worlds"].append("true")
    for field in ("metrics", "intervals", "curves"):
        other[field]["true"] = copy.deepcopy(other[field]["held-out"])
    other["metrics"]["true"]["sofa_all"] = 7.25
    assert deciding_world(other) == "true"
    assert len(groups([entry, other])) == 2  # worlds are part of how an entry was made
    parsed = _Page()
    parsed.feed(build_page([other], "site").read_text())
    heads = [part.strip() for part in parsed.rows[1] if part.strip()]
    assert heads[:9] == [x for w in ("own", "held-out", "true") for x in ("SOFA (all),", w, "world")]
    assert "7.250" in parsed.rows[2]
    text = (Path("site/entries") / "method_workshop-v0_ind_adaptive-20.html").read_text()
    assert text.count("true world") >= 3


def test_a_folder_with_other_things_is_left_alone(entry: dict[str, Any]) -> None:
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("years of work")
    with pytest.raises(SubmissionError, match="holds something else"):
        build_page([entry], "full")
    for rows in ([entry, variant(entry, "gone")], [entry]):
        build_page(rows, "site")
    assert len(list(Path("site/entries").glob("*.html"))) == 1


def test_entries_made_differently_are_not_ranked_together(entry: dict[str, Any]) -> None:
    other = variant(entry, "other")
    other["protocol"]["settings"] |= {"episodes": 50}
    other["protocol"]["deviations"].pop("episodes")
    assert len(groups([entry, variant(entry, "alike"), other])) == 2


def test_an_empty_board_still_makes_a_page(tmp_path: Path) -> None:
    assert "No entries yet" in build_page([], tmp_path / "site").read_text()


def test_the_commands_add_and_build(entry: dict[str, Any]) -> None:
    assert "added" in run("leaderboard", "add", "submission", "--file", "b/board.json").out
    assert "already" in run("leaderboard", "add", "submission", "--file", "b/board.json").out
    assert run("leaderboard", "build", "--file", "b/board.json", "--output", "site").code == 0
    assert "Method" in Path("site/index.html").read_text()
    assert "absent.json" in refused("leaderboard", "build", "--file", "absent.json", "--output", "site")
