"""Comparisons, console and HTML report."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from medgym_offline.errors import MissingExtraError, ProtocolError
from medgym_offline.evaluation import Evaluation, compare, evaluate, print_evaluations, write_report
from medgym_offline.evaluation.comparison import find_pairs, pairs_of
from medgym_offline.evaluation.console import disagree
from medgym_offline.simulators import SimulatorBank

VOID = {"meta", "line", "path", "use", "br", "rect"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_percentages_are_those_of_the_benchmark(results: dict[str, Evaluation]) -> None:
    pop, ind = (results[n].per_patient["sofa_all"] for n in ("near-pop", "near-ind"))
    found = compare(results["near-pop"], results["near-ind"])
    assert found.percent == pytest.approx(100 * (pop.mean() - ind.mean()) / pop.mean())
    assert found.share == pytest.approx((ind < pop).mean())
    assert found.percent_interval[0] <= found.percent <= found.percent_interval[1]
    assert found.per_patient["method"] == pytest.approx(ind.tolist())
    # Return: larger is better, so a gain has the same sign as the gain in SOFA here.
    assert np.sign(compare(results["max"], results["near-pop"], "return").percent) == 1


def test_patients_are_matched_by_id(results: dict[str, Evaluation]) -> None:
    found = results["near-ind"]
    turned = {k: v[::-1].copy() for k, v in found.per_patient.items()}
    reversed_rows = dataclasses.replace(
        found, worlds={"own": dataclasses.replace(found.worlds["own"], per_patient=turned)}
    )
    assert compare(results["near-pop"], reversed_rows) == compare(results["near-pop"], found)


def test_several_seeds(results: dict[str, Evaluation]) -> None:
    found = compare([results["max"], results["zero"]], [results["near-ind"]] * 3)
    assert found.seeds == (2, 3)
    assert "2 training seeds" in found.label
    assert found.reference_mean == pytest.approx(
        np.mean([results[n].metrics["sofa_all"] for n in ("max", "zero")]), rel=1e-6
    )


def test_what_cannot_be_compared(results: dict[str, Evaluation], tiny_bank: SimulatorBank) -> None:
    zero = results["zero"]
    with pytest.raises(ProtocolError, match="episodes"):
        compare(zero, evaluate("max", bank=tiny_bank, episodes=1))
    with pytest.raises(ProtocolError, match="other patients"):
        compare(zero, evaluate("max", bank=tiny_bank, episodes=3, patients=2))
    with pytest.raises(ProtocolError, match="different banks"):
        compare(zero, dataclasses.replace(results["max"], bank=zero.bank | {"content_hash": "x"}))
    with pytest.raises(ProtocolError, match="no metric 'sofas'"):
        compare(zero, results["max"], "sofas")
    with pytest.raises(ProtocolError, match="world 'true'"):
        compare(zero, results["max"], world="true")
    with pytest.raises(ProtocolError, match="nothing to compare"):
        compare(zero, [])


def test_pairs_by_name() -> None:
    names = ["cql-ind", "dqn_pop", "DQN Ind", "cql-pop", "zero", "behavior-ind", "x-fixed-ind", "x-adaptive-ind"]
    assert find_pairs(names, ["pop"], ["ind"]) == [("dqn_pop", "DQN Ind"), ("cql-pop", "cql-ind")]
    assert find_pairs(names, ["fixed"], ["adaptive"]) == [("x-fixed-ind", "x-adaptive-ind")]
    assert find_pairs(["behavior:pop", "behavior"], ["pop"], ["ind"]) == [("behavior:pop", "behavior")]


def test_pairs_of_results(results: dict[str, Evaluation]) -> None:
    found = [(kind, c.reference, c.method) for kind, c in pairs_of(results)]
    assert found == [
        ("PopInd", "near-pop", "near-ind"),
        ("BehaviorMethod", "behavior", "near-ind"),
        ("BehaviorMethod", "behavior", "near-pop"),
    ]


def test_results_whose_names_form_no_pair_are_compared_with_the_first(results: dict[str, Evaluation]) -> None:
    plain = {"b": results["max"], "a": results["near-ind"], "c": results["near-pop"]}
    assert [(kind, c.reference, c.method) for kind, c in pairs_of(plain)] == [
        ("Paired", "b", "a"),
        ("Paired", "b", "c"),
    ]
    assert pairs_of({"b": results["max"]}) == []


def test_disagreement_between_worlds(results: dict[str, Evaluation]) -> None:
    c = compare(results["max"], results["near-ind"])
    assert not disagree([c, c])
    assert disagree([c, dataclasses.replace(c, percent=-c.percent)])
    assert not disagree([c, dataclasses.replace(c, percent=-0.01)])


def test_console_fits_a_terminal(results: dict[str, Evaluation]) -> None:
    for shown in (results, results["behavior"]):
        stream = io.StringIO()
        print_evaluations(shown, Console(file=stream, width=80))
        text = stream.getvalue()
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text  # nothing cut off
        digits = 2 if shown is results else 3
        assert f"{results['behavior'].metrics['sofa_all']:.{digits}f}" in text
        assert "episodes 3 instead of 50" in text
        assert "protocol-v0" in text


@pytest.fixture(scope="module")
def page(results: dict[str, Evaluation], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(results, tmp_path_factory.mktemp("report") / "r.html", "A <title> & more")
    return path.read_text(encoding="utf-8")


def test_report_asks_for_nothing_outside(page: str) -> None:
    assert not re.search(r"(src|href|action|data)\s*=\s*[\"']?\s*(https?:)?//", page)
    assert not re.search(r"https?://", page)
    assert "@import" not in page
    parsed = Page(page)
    assert not any(tag in ("script", "link", "img", "iframe") for tag, _ in parsed.tags)
    assert all(href.startswith("#") for _, a in parsed.tags if (href := a.get("href")))
    assert not re.search(r"url\((?!#)", page)


def test_report_is_well_formed_and_escaped(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    assert "<title>A &lt;title&gt; &amp; more</title>" in page
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for target in re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", page):
        assert target in ids


def test_report_shows_the_figures_and_the_numbers(page: str, results: dict[str, Evaluation]) -> None:
    parsed = Page(page)
    text = " ".join(parsed.text)
    for heading in (
        "SOFA over time",
        "Lactate over time",
        "Support distance over the episode",
        "Support percentile over the episode",
        "Support distance by part",
        "SOFA by subgroup",
        "near-ind against near-pop",
    ):
        assert heading in text
    pictures = [a["aria-label"] for tag, a in parsed.tags if a.get("role") == "img"]
    assert len(pictures) == 8
    assert all(label and len(label) > 60 for label in pictures)
    for name, evaluation in results.items():
        assert name in text
        assert f"{evaluation.metrics['sofa_all']:.3f}" in text
        assert f"{evaluation.worlds['held-out'].metrics['sofa_all']:.3f}" in text
    assert results["zero"].protocol_hash in text
    assert results["zero"].bank["content_hash"] in text
    assert "episodes: 3 instead of 50" in text
    # A path per policy in each of the curve figures, in the colours of the page.
    assert page.count("var(--ink)") > 10
    assert "#0a0" not in page


def test_report_is_accessible_and_adapts(page: str) -> None:
    parsed = Page(page)
    tables = sum(tag == "table" for tag, _ in parsed.tags)
    assert tables == sum(tag == "caption" for tag, _ in parsed.tags) >= 5
    assert all(a.get("scope") in ("col", "row") for tag, a in parsed.tags if tag == "th")
    assert ("html", {"lang": "en"}) in parsed.tags
    assert "prefers-color-scheme: dark" in page
    assert any(a.get("name") == "viewport" for tag, a in parsed.tags if tag == "meta")


def test_report_is_deterministic(page: str, results: dict[str, Evaluation], tmp_path: Path) -> None:
    again = {name: Evaluation.from_json(e.to_json()) for name, e in results.items()}
    assert write_report(again, tmp_path / "r.html", "A <title> & more").read_text(encoding="utf-8") == page


def test_report_of_one_policy(results: dict[str, Evaluation], tmp_path: Path) -> None:
    text = write_report({"only": results["zero"]}, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "1 policy on 4 patients" in text
    assert "Paired comparisons" not in text
    assert "middle 80 % of patients" in text


def test_report_without_its_extra(
    results: dict[str, Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("matplotlib", "jinja2"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(MissingExtraError, match=r"medgym-offline\[report\]"):
                write_report(results, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    with pytest.raises(ProtocolError, match="at least one"):
        write_report({}, tmp_path / "r.html")


def test_reading_and_showing_results_needs_no_torch() -> None:
    """`report` and the leaderboard read results; they should not wait for torch."""
    code = (
        "import sys; from medgym_offline.evaluation import Evaluation, compare, print_evaluations, write_report; "
        "assert not {'torch', 'matplotlib', 'scipy', 'h5py', 'minari'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
