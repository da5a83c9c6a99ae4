"""Entries: what they hold; everything else is refused in one line, by the types and by the published schema."""

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medgym_offline.config import check, to_values
from medgym_offline.errors import MedGymError, SubmissionError
from medgym_offline.evaluation import Evaluation
from medgym_offline.files import release_folder, sha256_file
from medgym_offline.leaderboard import Entry, entry_schema, read_submission
from medgym_offline.leaderboard.building import MAX_POLICY_BYTES, build_entry
from tests.leaderboard.workshop import DATASET, PATIENTS, change, refused, run


def test_the_entry_says_what_was_done(folder, shop):
    submission = read_submission(folder)
    entry = submission.entry
    assert (entry.id, entry.disease, entry.seeds) == ("my-method/workshop-v0/ind/adaptive-20", "sepsis", (0, 1))
    assert (entry.dataset.id, entry.worlds, len(entry.patients)) == (DATASET, ("own", "crossfit"), PATIENTS)
    first, second = (Evaluation.from_json(shop.result(seed) / "result.json") for seed in (0, 1))
    mean = (first.metrics["severity_mean"] + second.metrics["severity_mean"]) / 2
    assert entry.metrics["own"]["severity_mean"] == pytest.approx(mean, rel=1e-6)
    low, high = entry.intervals["own"]["severity_mean"]
    assert low <= entry.metrics["own"]["severity_mean"] <= high
    assert entry.runs[1]["own"]["return"] == pytest.approx(second.metrics["return"], rel=1e-6)
    columns = (found.worlds["own"].per_patient["severity_mean"].tolist() for found in (first, second))
    assert entry.per_patient["own"]["severity_mean"] == tuple(map(tuple, columns))
    assert entry.protocol.deviations["episodes"] == {"protocol": 50, "used": 2}
    assert [Path(p).read_bytes() for p in submission.policies] == [shop.policy(s).read_bytes() for s in (0, 1)]
    assert check(Entry, to_values(entry), "again") == entry


def without_words(part):
    return {key: value for key, value in part.items() if key != "description" or not isinstance(value, str)}


def test_the_published_schema_is_that_of_the_types(folder):
    text = (release_folder("leaderboard") / "entry.schema.json").read_text()
    published, rules = json.loads(text), json.loads(json.dumps(entry_schema()), object_hook=without_words)
    assert json.loads(text, object_hook=without_words) == rules, "write entry_schema() to the file again"
    jsonschema.Draft202012Validator.check_schema(published)
    assert jsonschema.Draft202012Validator(published).is_valid(json.loads((folder / "entry.json").read_text()))


JUNK = st.sampled_from([None, True, 1.5, -1, 10**400, "x", "", "<b>", [], ["x"], {}, {"x": 1}, [{}], "a/b/c/d", "a\nb"])


def places(values, path=()):
    """Paths of whatever an entry holds, but for what is free."""
    if isinstance(values, dict | list) and path[-1:] not in {("training",), ("deviations",)}:
        for key in values if isinstance(values, dict) else range(len(values)):
            yield (*path, key)
            yield from places(values[key], (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_the_schema_refuses_the_types_refuse_in_one_line(folder, data):
    values = json.loads((folder / "entry.json").read_text())
    *above, last = data.draw(st.sampled_from(list(places(values))))
    target = values
    for key in above:
        target = target[key]
    how = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if how == "replace":
        target[last] = data.draw(JUNK)
    elif how == "remove":
        target.pop(last)
    else:
        values[data.draw(st.sampled_from(["invented", "seed", "Metrics"]))] = 1
    problem = ""
    try:
        check(Entry, values, "entry.json", SubmissionError)
    except MedGymError as error:
        problem = str(error)
    assert re.fullmatch(r"(entry\.json: .+)?", problem)
    assert problem or jsonschema.Draft202012Validator(entry_schema()).is_valid(values)


TAMPERED = [
    (lambda e: e.update(disease="sepsys"), "unknown disease 'sepsys'; did you mean 'sepsis'?"),
    (lambda e: e.update(disease="toy"), "disease is 'toy', but its protocol is of 'sepsis'"),
    (lambda e: e["dataset"].update(id="medgym/toy-v0"), "is 'sepsis', but dataset 'medgym/toy-v0' is of 'toy'"),
    (lambda e: e.update(name="Other"), "id is"),
    (lambda e: e["protocol"]["deviations"].update(split="x"), "id is"),
    (lambda e: e["metrics"].pop("crossfit"), "metrics has the worlds own, not own, crossfit"),
    (lambda e: e["metrics"]["own"].pop("return"), "return"),
    (lambda e: e["runs"].pop(), "runs, seeds and policies"),
    (lambda e: e["per_patient"]["own"]["severity_mean"].pop(), "per_patient.own.severity_mean must hold 2 x 3"),
    (lambda e: e["per_patient"]["own"]["severity_mean"][0].__setitem__(0, 0.0), "is not the mean over patients"),
    (lambda e: e.update(patients=["a", "a", "b"]), "somebody twice"),
    (lambda e: e["policies"].__setitem__(1, e["policies"][0]), "the same policy"),
    (lambda e: e["policies"].__setitem__(0, {"builtin": "evil"}), "policies.0.built-in.builtin"),
    (lambda e: e["policies"][0].update(file="../x.pt"), "policies.0.file.file"),
    (lambda e: e["policies"][0].update(file="policies/x.pkl"), "policies.0.file.file"),
    (lambda e: e["policies"][0].update(sha256="0" * 64), "sha256 does not match"),
    (lambda e: e["policies"][0].update(bytes=MAX_POLICY_BYTES + 1), "at most 256"),
    (lambda e: e["policies"][0].update(file="policies/absent.pt"), "is missing; put the file there"),
    (lambda e: e.update(links=["javascript:alert(1)"]), "links.0"),
    (lambda e: e.update(authors=["<script>"]), "authors.0"),
    (lambda e: e["metrics"]["own"].update({"return": float("nan")}), "metrics.own.return"),
]


@pytest.mark.parametrize(("edit", "reason"), TAMPERED)
def test_tampered_entries_are_refused(folder, edit, reason):
    change(folder, edit)
    assert reason in refused("leaderboard", "add", folder, "--file", "board.json")
    assert not Path("board.json").exists()


def test_swapped_policies_links_and_strangers_are_refused(folder, tmp_path):
    first, second = sorted((folder / "policies").iterdir())
    content, elsewhere = first.read_bytes(), tmp_path / "elsewhere"
    add = ("leaderboard", "add", folder, "--file", "board.json")
    for other in (second.read_bytes(), content[:-1] + bytes([content[-1] ^ 1])):
        first.write_bytes(other)
        assert "sha256 does not match" in refused(*add)
    first.write_bytes(content)
    for linked in (first, folder / "policies"):
        linked.rename(elsewhere)
        linked.symlink_to(elsewhere)
        assert "is a link" in refused(*add)
        linked.unlink()
        elsewhere.rename(linked)
    # Opening a pipe would wait for ever.
    for name, make in (("run.sh", Path.touch), ("policies/extra.pt", Path.touch), ("policies/pipe.pt", os.mkfifo)):
        make(folder / name)
        assert "does not belong" in refused(*add)
        (folder / name).unlink()
    (tmp_path / "link").symlink_to(folder)
    assert "not a folder" in refused("leaderboard", "verify", tmp_path / "link")
    with open(first, "r+b") as stream:
        stream.truncate(MAX_POLICY_BYTES + 1)  # a hole: takes no room on the disk
    assert "at most 256" in refused(*add)
    first.write_bytes(content)
    (folder / "README.md").write_text("how it was made")
    assert run(*add).code == 0


def test_entries_that_are_no_json_objects_or_too_large_are_refused(folder):
    for text in ("[" * 100_000, "[]", "3", "null", " " * (5 * 2**20)):
        (folder / "entry.json").write_text(text)
        assert "entry.json" in refused("leaderboard", "add", folder, "--file", "board.json")


def test_a_file_that_only_looks_like_a_policy_is_refused(folder):
    policy = folder / json.loads((folder / "entry.json").read_text())["policies"][0]["file"]
    policy.write_bytes(b"\x80\x04N.")
    change(folder, lambda e: e["policies"][0].update(sha256=sha256_file(policy), bytes=policy.stat().st_size))
    assert "pickle" in refused("leaderboard", "add", folder, "--file", "board.json")


def test_results_that_do_not_belong_together_are_refused(shop):
    submit = ("submit", "--name", "X", "--output", "s")
    assert "same policy" in refused(*submit, shop.result(0), shop.result(0))
    assert "no such file" in refused(*submit, "nowhere/result.json")
    shop.score(shop.policy(1), "seeded", seed=5)
    assert "differ in seed" in refused(*submit, shop.result(0), "seeded")
    shop.score(shop.policy(0, "pop"), "pop")
    assert "differ in scope" in refused(*submit, shop.result(0), "pop")
    Path("seeded/policy.safetensors").write_bytes(b"x")
    assert "is not beside it" in refused(*submit, "seeded")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    assert "is no submission" in refused("submit", shop.result(0), "--name", "X", "--output", "full")
    assert "no letter or digit" in refused("submit", shop.result(0), "--name", "?!", "--output", "s")
    assert not Path("s").exists()
    with pytest.raises(SubmissionError, match="no evaluation"):
        build_entry([], [], "X")
