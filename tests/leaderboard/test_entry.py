"""Entries: what they hold; everything else is refused in one line, by the types and by the published schema."""

import json
import os
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


def fits(values):
    problem = ""
    try:
        check(Entry, values, "entry.json", SubmissionError)
    except MedGymError as error:
        problem = str(error)
    assert problem == "" or (problem.startswith("entry.json: ") and "\n" not in problem)
    return problem == ""


def test_the_entry_says_what_was_done(folder, shop):
    submission = read_submission(folder)
    entry = submission.entry
    assert (entry.id, entry.disease) == ("my-method/workshop-v0/ind/adaptive-20", "sepsis")
    assert entry.seeds == (0, 1)
    assert entry.dataset.id == DATASET
    assert entry.worlds == ("own", "crossfit")
    results = [json.loads((shop.result(seed) / "result.json").read_text()) for seed in (0, 1)]
    mean = sum(r["metrics"]["severity_mean"] for r in results) / 2
    assert entry.metrics["own"]["severity_mean"] == pytest.approx(mean, rel=1e-6)
    low, high = entry.intervals["own"]["severity_mean"]
    assert low <= entry.metrics["own"]["severity_mean"] <= high
    assert entry.runs[1]["own"]["return"] == pytest.approx(results[1]["metrics"]["return"], rel=1e-6)
    found = [Evaluation.from_json(shop.result(seed) / "result.json").worlds["own"].per_patient for seed in (0, 1)]
    assert entry.per_patient["own"]["severity_mean"] == tuple(tuple(c["severity_mean"].tolist()) for c in found)
    assert len(entry.patients) == PATIENTS
    assert entry.protocol.deviations["episodes"] == {"protocol": 50, "used": 2}
    assert [Path(p).read_bytes() for p in submission.policies] == [shop.policy(s).read_bytes() for s in (0, 1)]
    assert check(Entry, to_values(entry), "again") == entry


def rules(schema):
    """A schema without its words."""
    if isinstance(schema, dict):
        return {k: rules(v) for k, v in schema.items() if not (k == "description" and isinstance(v, str))}
    return [rules(v) for v in schema] if isinstance(schema, list) else schema


def test_the_published_schema_is_that_of_the_types(folder):
    published = json.loads((release_folder("leaderboard") / "entry.schema.json").read_text())
    assert rules(published) == rules(entry_schema()), "write entry_schema() to the file again"
    jsonschema.Draft202012Validator.check_schema(published)
    assert jsonschema.Draft202012Validator(published).is_valid(json.loads((folder / "entry.json").read_text()))


JUNK = st.sampled_from([None, True, 1.5, -1, 10**400, "x", "", "<b>", [], ["x"], {}, {"x": 1}, [{}], "a/b/c/d", "a\nb"])


def places(values, path=()):
    found = [path] if path else []
    for key, item in (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    ):
        if path[-1:] != ("training",) and path[-1:] != ("deviations",):
            found += places(item, (*path, key))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_the_schema_refuses_the_types_refuse_in_one_line(folder, data):
    values = json.loads((folder / "entry.json").read_text())
    *above, last = data.draw(st.sampled_from(places(values)))
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
    fits(values)
    if not jsonschema.Draft202012Validator(entry_schema()).is_valid(values):
        assert not fits(values)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda e: e.update(disease="sepsys"), "unknown disease 'sepsys'; did you mean 'sepsis'?"),
        (lambda e: e.update(disease="toy"), "disease is 'toy', but its protocol is of 'sepsis'"),
        (
            lambda e: e.update(dataset={"id": "medgym/toy-v0", "identity": None}),
            "disease is 'sepsis', but dataset 'medgym/toy-v0' is of 'toy'",
        ),
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
    ],
)
def test_tampered_entries_are_refused(folder, edit, reason):
    change(folder, edit)
    assert reason in refused("leaderboard", "add", folder, "--file", "board.json")
    assert not Path("board.json").exists()


def test_swapped_policies_links_and_strangers_are_refused(folder, tmp_path):
    first, second = sorted((folder / "policies").iterdir())
    content = first.read_bytes()
    add = ("leaderboard", "add", folder, "--file", "board.json")
    for other in (second.read_bytes(), content[:-1] + bytes([content[-1] ^ 1])):
        first.write_bytes(other)
        assert "sha256 does not match" in refused(*add)
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(content)
    first.unlink()
    first.symlink_to(outside)
    assert "is a link" in refused(*add)
    first.unlink()
    first.write_bytes(content)
    for stranger in (folder / "run.sh", folder / "policies" / "extra.pt"):
        stranger.write_text("echo")
        assert "does not belong" in refused(*add)
        stranger.unlink()
    os.mkfifo(folder / "policies" / "pipe.pt")  # opening it would wait for ever
    assert "does not belong" in refused(*add)
    (folder / "policies" / "pipe.pt").unlink()
    (tmp_path / "link").symlink_to(folder)
    assert "not a folder" in refused("leaderboard", "verify", tmp_path / "link")
    (folder / "policies").rename(tmp_path / "elsewhere")
    (folder / "policies").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refused(*add)
    (folder / "policies").unlink()
    (tmp_path / "elsewhere").rename(folder / "policies")
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
