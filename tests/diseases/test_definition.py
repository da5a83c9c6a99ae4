"""Definitions: contradictions are refused, diseases found by name, and no name of one leaves its folder."""

import ast
import dataclasses
import io
import re
import tokenize
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import medgym_offline as mgo
from medgym_offline.diseases import registry
from medgym_offline.diseases.base import CLOCKS, Component, Feature, SignCheck, Treatment
from medgym_offline.envs.timing import ProcessConfig, decision_interval, on_tick
from medgym_offline.errors import BankError, DiseaseError, MedGymError, UnknownNameError
from tests.helpers import refused

TOY = mgo.disease("toy")


@pytest.mark.parametrize("name", mgo.list_diseases())
def test_every_disease_has_a_definition_that_fits_itself(name):
    disease = mgo.disease(name)
    assert disease.name == name
    assert disease.observation_dim == len(disease.observation)
    assert tuple(f.name for f in disease.observation[-2:]) == CLOCKS
    scales = disease.default_scales()
    state = np.array([[(c.lower + 2 * c.upper) / 3 for c in disease.components]])
    np.testing.assert_allclose(scales.denormalize(disease, scales.normalize(disease, state)), state, rtol=1e-9)
    doses = np.array([[t.lower, t.upper] for t in disease.treatments]).T
    unit = scales.normalize_treatment(disease, doses)
    np.testing.assert_allclose(unit, [[0.0] * doses.shape[1], [1.0] * doses.shape[1]], atol=1e-12)
    np.testing.assert_allclose(scales.denormalize_treatment(disease, unit), doses, rtol=1e-9, atol=1e-12)
    points = disease.severity.score(state, doses[:1])
    both = disease.severity.score(torch.from_numpy(state), torch.from_numpy(doses[:1]))
    np.testing.assert_allclose(points, both.numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Toy one"}, "name: must be one lower-case word"),
        ({"treatments": ()}, "each needs an entry"),
        ({"components": TOY.components[::-1]}, "observed ones come first"),
        ({"components": (*TOY.components[:1], dataclasses.replace(TOY.components[1], name="glucose"))}, "occurs twice"),
        ({"components": (Component("glucose", "mg/dL", 70.0, 60.0, "log"), *TOY.components[1:])}, "component glucose"),
        ({"components": (Component("glucose", "mg/dL", 0.0, 600.0, "log"), *TOY.components[1:])}, "has no log"),
        ({"treatments": (Treatment("insulin", "U", 2.0, 1.0),)}, "treatment insulin"),
        ({"process": dataclasses.replace(TOY.process, max_interval=25.0)}, "process.max_interval"),
        ({"process": dataclasses.replace(TOY.process, decisions=1)}, "process.decisions"),
        ({"process": dataclasses.replace(TOY.process, tick=0.7)}, "process.horizon"),
        ({"costs": (dataclasses.replace(TOY.costs[0], component="lactic acid"),)}, "cost low: component"),
        ({"costs": (dataclasses.replace(TOY.costs[0], limit=5.0),)}, "limit 5 lies outside"),
        ({"features": (Feature("a", "", 0, 1),)}, "features, observe"),
        ({"features": (Feature("a", "", 0, 1),), "observe": lambda sight: None}, "must end with"),
        ({"sign_checks": (SignCheck("x", "water", "glucose", 1, None),)}, "sign_checks"),
        ({"needed": "water"}, "needed"),
        ({"severity": dataclasses.replace(TOY.severity, score=lambda s, d: s)}, "severity.score"),
    ],
)
def test_a_contradiction_is_refused_and_named(changes, message):
    refused(DiseaseError, message, lambda: dataclasses.replace(TOY, **changes))


def test_a_disease_of_another_package_is_found(monkeypatch):
    def installed(name):
        point = EntryPoint("asthma", f"tests.diseases.test_definition:{name}", registry.GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
        registry.disease.cache_clear()

    installed("ASTHMA")
    assert "asthma" in mgo.list_diseases()
    assert mgo.disease("asthma") is ASTHMA
    assert ProcessConfig(disease="asthma").horizon == 24.0
    installed("TOY")
    refused(DiseaseError, "is not a Disease of that name", lambda: mgo.disease("asthma"))
    registry.disease.cache_clear()


ASTHMA = dataclasses.replace(TOY, name="asthma")


def test_an_unknown_disease_is_one_line(tmp_path):
    refused(UnknownNameError, "sepsis", lambda: mgo.disease("sepsi"))
    refused(MedGymError, "asthma", lambda: ProcessConfig(disease="asthma"))
    bank = mgo.load_simulators("sepsis-v0").select([0])
    path = tmp_path / "bank.safetensors"
    bank.replace(disease=ASTHMA).save(path)
    refused(BankError, r"disease .asthma. is not installed; known: .*sepsis", lambda: mgo.load_simulators(path))


@pytest.mark.parametrize("name", mgo.list_diseases())
@given(data=st.data())
def test_intervals_are_whole_ticks_that_sum_to_the_horizon(name, data):
    """Whatever a policy asks for, under either timing and any feasible budget."""
    process = mgo.disease(name).process
    least = int(np.ceil(process.horizon / process.max_interval))
    most = int(process.horizon // process.min_interval)
    budget = data.draw(st.integers(least, min(most, 60)))
    timing = data.draw(st.sampled_from(["adaptive", "fixed"]))
    config = ProcessConfig(timing=timing, decisions=budget, disease=name)
    wishes = data.draw(st.lists(st.floats(-1.0, 1.0, width=32), min_size=budget, max_size=budget))
    time, ticks = torch.zeros(1, 1), 0
    for k, wish in enumerate(wishes):
        asked = config.min_interval + (wish + 1.0) / 2.0 * (config.max_interval - config.min_interval)
        left = torch.full((1, 1), float(budget - k))
        dt = decision_interval(time, left, config, torch.full((1, 1), asked))
        if not float(dt):
            break
        whole = float(dt) / config.tick
        assert whole == pytest.approx(round(whole), abs=1e-2)
        assert config.min_interval * (1 - 1e-6) <= float(dt) <= config.max_interval * (1 + 1e-6)
        ticks += round(whole)
        time = on_tick(time + dt, config)
    assert ticks == round(config.horizon / config.tick)
    assert float(time) == np.float32(config.horizon)


PACKAGE = Path(mgo.__file__).parent
FOLDER = PACKAGE / "diseases" / "sepsis"

ALLOWED = {
    "__init__.py": {"sepsis"},  # the re-export mgo.sepsis
    "diseases/__init__.py": {"sepsis"},
    "diseases/registry.py": {"sepsis"},  # the default disease, in one constant
    # Examples in help.
    "cli.py": {"sepsis"},
    "commands/learn.py": {"sepsis"},
    "commands/clinical.py": {"sepsis"},
    "commands/data.py": {"sepsis"},
}
"""File -> words it may have."""

# Names that other things have too: `map` and `fluids` are words of the language, `low` of every range.
_ORDINARY = {"shock"}


def _words(path):
    """Identifiers and strings of a module but its docstrings, as (line, word)."""
    text, documented = path.read_text(encoding="utf-8"), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return {
        (token.start[0], word)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type != tokenize.COMMENT and token.start[0] not in documented
        for word in re.findall(r"[a-z0-9_]+", token.string.lower())
    }


def test_the_generic_code_names_no_component_treatment_or_score_of_sepsis():
    sepsis, faults = mgo.disease("sepsis"), []
    definition = sepsis.cohort()
    names = {*sepsis.state_names, *sepsis.treatment_names, sepsis.severity.name, "sepsis"}
    names |= {*(metric.name for metric in sepsis.metrics), *definition.concepts, *definition.readable}
    forbidden = {name.lower() for name in names} - _ORDINARY
    for path in sorted(PACKAGE.rglob("*.py")):
        if FOLDER in path.parents or path.parent.parent.name == "diseases":
            continue
        name = str(path.relative_to(PACKAGE))
        for line, word in sorted(_words(path)):
            parts = {word, *word.split("_")}
            if hits := (parts & forbidden) - ALLOWED.get(name, set()):
                faults.append(f"{name}:{line}: {', '.join(sorted(hits))}")
    assert not faults, f"{len(faults)} names of sepsis outside its folder:\n" + "\n".join(faults[:60])
