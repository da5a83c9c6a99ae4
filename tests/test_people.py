"""Splits of people, and what is learned for people whom nobody trained on."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

from experiments.people.draw import text
from experiments.people.study import HERE, Arm, Part, StudyRecipe, kept
from medgym_offline import load_dataset, load_simulators
from medgym_offline.datasets import generate
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.diseases.diabetes.people import interpolated, published, splits
from medgym_offline.envs import DecisionProcess, ProcessConfig, draw_noise
from medgym_offline.envs.rollout import episode_seeds, rollout
from medgym_offline.errors import BankError, MedGymError, UnknownNameError
from medgym_offline.evaluation import Protocol, evaluate
from medgym_offline.evaluation.binding import resolve_policy
from medgym_offline.evaluation.worlds import taking_over
from medgym_offline.files import release_folder
from medgym_offline.leaderboard import submit, verify_submission
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.patients import people_hash
from medgym_offline.people import Contexts, IdentifyingPolicy, people_of
from medgym_offline.people.clusters import assign, distances, find_clusters, k_medoids, silhouette
from medgym_offline.people.context import ContextConfig, _rows, learn_encoder
from medgym_offline.people.records import Record, record
from medgym_offline.policies import load_policy, save_policy
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.sequences import begin_windows, extend_windows, window_width
from medgym_offline.simulators import list_banks
from medgym_offline.simulators.bank import drawn
from medgym_offline.stack import StackedMLP, Steps
from tests.leaderboard.workshop import refused, run

QUICK = OfflineConfig(updates=3, batch=8, hidden=8)
TOY = "medgym/toy-random-v0"


@pytest.fixture(scope="module")
def _toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    recipe = Recipe(id=TOY, description="Random.", bank="toy-v0", behavior="random", decisions=6, episodes=6)
    generate(recipe, root=root, progress=False)
    return root


@pytest.fixture
def toy(_toy, monkeypatch):
    """Six people of the toy disease, and random decisions for them."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(_toy))


# -- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_banks())
def test_every_bank_has_two_sides_and_nobody_is_on_both(name):
    bank = load_simulators(name)
    train_people, test_people = bank.people("train"), bank.people("test")
    assert not set(train_people) & set(test_people)
    assert {*train_people, *test_people} == set(bank.patients)
    expected = {"diabetes-v0": 12, "diabetes-hupa-v0": 5, "toy-v0": 2}
    assert len(test_people) == expected.get(name, 30)
    # A selection keeps its sides.
    assert bank.select(list(test_people[:2])).split == {"train": (), "test": test_people[:2]}


def test_the_draw_is_the_one_of_the_file_and_nobody_moves_with_others():
    assert text() == (release_folder("generation") / "splits.toml").read_text()
    people = [f"p{i}" for i in range(20)]
    whole, fewer = drawn(people, 5, 0), drawn(people[::-1], 5, 0)
    assert set(whole["test"]) == set(fewer["test"])
    assert drawn(people, 5, 1) != whole
    assert set(drawn(people, 6, 0)["test"]) > set(whole["test"])


def test_an_interpolated_patient_is_on_the_side_of_both_parents():
    people, sides = interpolated()
    table = np.log(published().values)
    for name, row in zip(people.names, np.log(people.values)):
        pool = [i for i, parent in enumerate(published().names) if splits()[parent] == sides[name]]
        # On a straight line between two of its own side: the nearest pair leaves nothing.
        best = min(_distance_to_line(row, table[i], table[j]) for i in pool for j in pool if i < j)
        assert best < 1e-9, name


def _distance_to_line(x, a, b):
    share = float((x - a) @ (b - a) / ((b - a) @ (b - a)))
    return float(np.abs(x - a - share * (b - a)).max())


def test_a_bank_without_a_split_says_so_in_one_line(tiny_bank):
    with pytest.raises(BankError, match="has no split of its people") as found:
        tiny_bank.people("test")
    assert "\n" not in str(found.value)
    with pytest.raises(UnknownNameError, match="split"):
        load_simulators("toy-v0").people("both")
    own = tiny_bank.replace(metadata={"split": {"train": tiny_bank.patients[:3], "test": tiny_bank.patients[2:]}})
    with pytest.raises(BankError, match="no split"):
        own.people("test")  # the third is on both sides
    assert "error: " in refused("eval", "--policy", "zero", "--bank", "toy-v0", "--split", "both", "--episodes", "1")


@pytest.mark.usefixtures("toy")
def test_a_dataset_and_an_evaluation_of_one_side():
    bank = load_simulators("toy-v0")
    rows = load_dataset(TOY, split="train", progress=False)
    assert (rows.present_ids, rows.split) == (bank.people("train"), "train")
    assert load_dataset(TOY, progress=False).split == ""
    one = load_dataset(TOY, 1, split="test", progress=False)
    assert one.present_ids == bank.people("test")[:1]
    found = evaluate("zero", bank=bank, split="test", episodes=2)
    assert tuple(found.per_patient["patient"]) == bank.people("test")
    alone = evaluate("zero", bank=bank, patients=list(bank.people("test")), episodes=2)
    assert (found.per_patient["return"] == alone.per_patient["return"]).all()
    assert found.deviations["split"] == {"protocol": None, "used": "test"}
    assert "patients" not in found.deviations
    assert evaluate("zero", bank=bank, split="test", patients=1, episodes=2).deviations["patients"]["protocol"] == 2


# -- entries on new people ---------------------------------------------------------------------------------------------


def _result(home, scope, split, **settings):
    """A policy learned on one side (None: on everybody), scored on the test people, kept as `eval --output` does."""
    from medgym_offline.commands.judge import keep

    rows = load_dataset(TOY, split=split, progress=False)
    policy = train("bc", rows, scope, config=QUICK, progress=False).policy
    file = save_policy(policy, home / "policy.safetensors")
    found = evaluate(
        str(file), bank="toy-v0", split="test", episodes=2, dataset=TOY, worlds=("own", "true"), **settings
    )
    keep(found, str(file), home / "result")
    return home / "result"


@pytest.mark.parametrize(
    ("scope", "split", "why"),
    [("pop", None, "does not say"), ("pop", "test", "does not say"), ("ind", "test", "oracle")],
)
@pytest.mark.usefixtures("toy")
def test_a_policy_that_saw_test_people_is_refused(tmp_path, scope, split, why):
    with pytest.raises(MedGymError, match=why) as found:
        submit([_result(tmp_path, scope, split)], "New", tmp_path / "submission")
    assert "\n" not in str(found.value)


def test_what_learned_from_nobody_needs_no_record(tmp_path):
    from medgym_offline.commands.judge import keep

    keep(evaluate("zero", bank="toy-v0", split="test", episodes=2), "zero", tmp_path / "zero")
    assert submit([tmp_path / "zero"], "Nothing", tmp_path / "fine").entry.scope == "baseline"


@pytest.mark.usefixtures("toy")
def test_verification_asks_who_the_train_people_are(tmp_path):
    made = submit([_result(tmp_path / "a", "pop", "train")], "New", tmp_path / "submission")
    path = made.folder / "entry.json"
    values = json.loads(path.read_text())
    values["policies"][0]["training"]["people"]["sha256"] = people_hash(["toy/0"])
    path.write_text(json.dumps(values))
    with pytest.raises(MedGymError, match="learned from other people"):
        verify_submission(made.folder, progress=False)


# -- records -----------------------------------------------------------------------------------------------------------


def test_a_record_is_of_what_was_seen_and_of_nobody_else():
    bank = load_simulators("diabetes-v0").world("true").select([3, 8, 21])
    whole, alone = record(bank, 2), record(bank.select([1]), 2)
    more = record(bank, 3)
    for name in ("times", "observed", "treatments", "exogenous"):
        assert torch.equal(getattr(whole, name)[1:2], getattr(alone, name)), name
        assert torch.equal(getattr(whole, name), getattr(more, name)[:, :2]), name
    assert whole.observed.shape == (3, 2, 21, bank.disease.observation_dim - 2)
    # The sensor errs: under the same treatments, its first reading is not where glucose is.
    assert (whole.observed[:, :, 0, 0] - bank.initial_state()[:, None, 0]).abs().min() > 1e-4
    # Nobody writes down the errors of the sensor, and everybody the meals.
    names = bank.disease.exogenous.names
    assert (whole.exogenous[..., names.index("sensor")] == 0).all()
    assert (whole.exogenous[..., names.index("grams_0")] > 0).any()
    first = record(bank, 2, hours=6.0)
    assert torch.allclose(first.times[..., -1], torch.tensor(6.0))
    assert first.treatments.shape[2] == 2  # of decisions at 0 and 24/5 h


@pytest.mark.parametrize(
    "attempt",
    [
        lambda bank: record(bank, 0),
        lambda bank: record(bank, hours=0.0),
        lambda bank: record(bank, hours=24.0),
        lambda bank: record(bank, view="x-ray"),
        lambda bank: people_of("clu", bank, hours=float("nan")),
        lambda bank: people_of("pop", bank),
        lambda bank: find_clusters(bank.select(2)),
        lambda bank: record(bank).select(["nobody"]),
        lambda bank: people_of("clu", bank.replace(metadata={}, name="own")),
    ],
)
def test_what_cannot_identify_anybody_is_refused_in_one_line(attempt):
    with pytest.raises(MedGymError) as found:
        attempt(load_simulators("toy-v0"))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["sepsis-twin-v0", "diabetes-v0", "anesthesia-v0", "toy-v0"])
def test_observations_begin_with_readings_of_the_observed_components(name):
    """What forecasts of a record are compared with."""
    bank = load_simulators(name).select(2)
    process = DecisionProcess(bank, ProcessConfig(disease=bank.disease.name))
    noise = draw_noise(np.array([[1, 2], [3, 4]]), bank, process.config)
    episodes = process.start(2, noise.initial, noise.exogenous)
    count = len(bank.disease.variables)
    # Within the error of an instrument.
    assert (process.observe(episodes)[..., :count] - episodes.x[..., :count]).abs().max() < 1.0


# -- clusters ----------------------------------------------------------------------------------------------------------


def test_k_medoids_and_silhouette_where_the_answer_is_known():
    points = np.array([30.0, 0, 11, 1, 32, 12, 2, 10, 31])
    distance = np.abs(points[:, None] - points)
    medoids, labels = k_medoids(distance, 3)
    assert sorted(points[medoids]) == [1, 11, 31]
    assert [set(points[labels == n]) for n in np.argsort(points[medoids])] == [{0, 1, 2}, {10, 11, 12}, {30, 31, 32}]
    assert k_medoids(distance, 1)[0] == [int(distance.sum(0).argmin())]
    assert sorted(k_medoids(distance, 9)[0]) == list(range(9))
    four = np.array([0.0, 1, 10, 11])
    # a = 1; b = 10.5 for the outer points and 9.5 for the inner ones.
    expected = (1 - 1 / 10.5 + 1 - 1 / 9.5) / 2
    assert silhouette(np.abs(four[:, None] - four), np.array([0, 0, 1, 1])) == pytest.approx(expected)
    assert silhouette(np.abs(four[:, None] - four), np.array([0, 1, 2, 3])) == 0.0


@pytest.mark.parametrize("name", ["diabetes-v0", "anesthesia-v0"])
def test_a_new_person_joins_the_cluster_of_the_people_who_are_alike(name):
    bank = load_simulators(name)
    clusters = find_clusters(bank.select(list(bank.people("train"))))
    assert set(clusters.of) == set(clusters.learned_from) == set(bank.people("train"))
    own = bank.world("own")
    # A medoid's own days are best predicted by its own simulator.
    home = assign(clusters, bank, record(own.select(list(clusters.medoids)), 2))
    assert [home.of[p] for p in clusters.medoids] == list(range(len(clusters.medoids)))
    joined = assign(clusters, bank, record(own.select(list(bank.people("test"))), 3))
    middle = [bank.index(p) for p in clusters.medoids]
    nearest = dict(zip(bank.patients, distances(bank)[:, middle].argmin(1)))
    alike = np.mean([joined.of[p] == nearest[p] for p in bank.people("test")])
    assert alike > 0.85, alike
    assert {p: joined.of[p] for p in clusters.of} == dict(clusters.of)


# -- context -----------------------------------------------------------------------------------------------------------

SMALL = ContextConfig(steps=400, sessions=4)


@pytest.fixture(scope="module")
def encoder():
    bank = load_simulators("diabetes-v0")
    return learn_encoder(bank.select(list(bank.people("train"))), SMALL)


def test_an_embedding_knows_no_order_and_no_batch_mates(encoder):
    bank = load_simulators("diabetes-v0").world("true").select([2, 5, 7])
    found = record(bank, 3)
    z = encoder.embed(found)
    assert z.shape == (3, SMALL.numbers)
    assert torch.equal(encoder.embed(found.select([bank.patients[1]])), z[1:2])
    parts = (found.times, found.observed, found.treatments, found.exogenous)
    backwards = Record(found.patients, *(part.flip(1) for part in parts))
    assert torch.allclose(encoder.embed(backwards), z, atol=1e-6)
    rows = torch.randn(2, 12, encoder.parts["phi"].sizes[0])
    mixed = encoder.pooled(rows[:, torch.randperm(12)], torch.ones(2, 12))
    assert torch.allclose(mixed, encoder.pooled(rows, torch.ones(2, 12)), atol=1e-5)


def test_an_embedding_of_a_new_person_predicts_that_person(encoder):
    bank = load_simulators("diabetes-v0")
    people = bank.world("own").select(list(bank.people("test")))
    z, other = encoder.embed(record(people, 3, 5)), _rows(record(people, 4, 6, "random"), 1).flatten(1, 2)
    truth = other[..., -1:] - other[..., :1]

    def error(embedding):
        return float((encoder.predicted(embedding * encoder.scale + encoder.center, other) - truth).square().mean())

    assert error(z) < 0.8 * error(torch.zeros_like(z))
    assert error(z) < 0.8 * error(z.roll(1, 0))


@pytest.mark.parametrize("history", [1, 3])
def test_an_embedding_folded_into_a_bias_is_the_policy_that_reads_it(history):
    steps, width = Steps(history, 2), window_width(3 + 2, 2, history)
    wide = StackedActor(StackedMLP(1, (width, 8, 2), seeds=[0], steps=steps), None, 6, disease="toy")
    people = Contexts(("toy/0", "toy/1"), torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    stack = people.finish(wide)
    told = people.embeddings[:, None].expand(-1, 4, -1)
    seen, whole = torch.empty(0), torch.empty(0)
    for look in range(4):
        plain, acted = torch.rand(2, 4, 3), torch.rand(2, 4, 2)
        read = torch.cat([plain[..., :1], told, plain[..., 1:]], -1)
        seen = extend_windows(seen, acted, plain) if look else begin_windows(plain, 2, history)
        whole = extend_windows(whole, acted, read) if look else begin_windows(read, 2, history)
        assert torch.allclose(stack.act(seen), wide.act(whole), atol=1e-6)
    assert stack.observation_dim == window_width(3, 2, history)


# -- whom an episode is of ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["full", "charted"])
@pytest.mark.parametrize("scope", ["clu", "context"])
@pytest.mark.parametrize("history", [1, 3])
def test_an_episode_is_identified_by_its_own_first_hours(scope, view, history, monkeypatch):
    """By what `record` writes down of the same course; then it is treated as those are who have such a record."""
    bank, hours = load_simulators("toy-v0").world("true"), 6.0
    people = people_of(scope, bank, 1, hours, config=ContextConfig(3, 8, 20, sessions=2), view=view)
    names = [f"cluster {i}" for i in range(len(people.medoids))] if scope == "clu" else None
    width = window_width(len(bank.disease.seen(view)) + 3 * (scope == "context"), 1, history)
    net = StackedMLP(len(names or "1"), (width, 8, 1), steps=Steps(history, 1))
    wide = StackedActor(net, names, 6, provenance={"scope": scope}, disease="toy", view=view)
    stack = people.finish(wide)
    policy = stack if history == 1 else HistoryPolicy(stack, history)
    few = bank.select([1, 4])
    expected = record(few, 3, hours=hours, view=view)
    records, identify = [], type(people).identify
    monkeypatch.setattr(type(people), "identify", lambda *given: records.append(given[-1]) or identify(*given))
    finds = IdentifyingPolicy(policy, people, bank, hours)
    seeds = episode_seeds(0, "record clinician", few.patients, 3)
    config = ProcessConfig(timing="fixed", reward="paper", disease="toy", view=view)
    bound = resolve_policy(finds, few, None, None, 6)
    protocol = Protocol(timing="fixed", disease="toy", view=view)
    act = taking_over(bound, few, hours, protocol).act_on(few.patients, seeds)
    played = rollout(DecisionProcess(few, config, hours), act, draw_noise(seeds, few, config))
    (asked,) = records
    for part in ("times", "observed", "treatments"):
        assert torch.allclose(getattr(asked, part)[:, 0], getattr(expected, part).flatten(0, 1), atol=1e-5), part
    # From there on: the policy of people with these records, told what went before.
    alike = people.policy_for(stack, people.identify(bank, asked), asked.patients)
    alike = alike if history == 1 else HistoryPolicy(alike, history)
    before = expected.treatments.shape[2]
    for k in range(6):
        own = alike.act(played.observations[:, :, k].flatten(0, 1)[:, None])
        given = played.actions[:, :, k].flatten(0, 1)[:, None]
        if k >= before:
            assert torch.allclose(own, given, atol=1e-5), k
        elif history > 1:
            alike.took(given)
    # A patient alone, and one episode of it, is treated as in company.
    single = IdentifyingPolicy(policy, people, bank, hours)
    act = taking_over(resolve_policy(single, few, None, None, 6), few, hours, protocol)
    one = few.select([1])
    noise = draw_noise(seeds[1:, 2:], one, config)
    alone = rollout(DecisionProcess(one, config, hours), act.act_on(one.patients, seeds[1:, 2:]), noise)
    assert torch.allclose(alone.actions[0, 0], played.actions[1, 2], atol=1e-4)


def test_networks_of_people_are_found_again_from_their_embeddings():
    names, seed = tuple(f"toy/{i}" for i in range(6)), torch.Generator().manual_seed(0)
    people = Contexts(names, torch.randn(6, 2, generator=seed))
    stack = people.finish(StackedActor(StackedMLP(1, (3 + 2, 8, 2), steps=Steps(1, 2)), None, 6, disease="toy"))
    again = people.policy_for(stack, people.embeddings, people.patients)
    seen = torch.rand(6, 4, 3)
    assert torch.allclose(again.act(seen), stack.act(seen), atol=1e-6)
    other = Contexts(people.patients, people.embeddings.flip(0) ** 2)
    for wrong in (other, Contexts(people.patients[:2], people.embeddings[:2])):
        with pytest.raises(MedGymError) as found:
            wrong.policy_for(stack, people.embeddings, people.patients)
        assert "\n" not in str(found.value)


@pytest.mark.usefixtures("toy")
def test_a_policy_of_first_hours_finds_people_by_itself_at_a_takeover_and_no_other(tmp_path):
    done = run("train", "bc", "--dataset", TOY, "--scope", "clu", "--split", "train", "--hours", "4", "--updates", "3",
               "--output", tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    policy, bank = tmp_path / "bc-clu-seed0.safetensors", load_simulators("toy-v0")
    found = evaluate(policy, bank=bank, split="test", episodes=2, takeover=4.0)
    people = people_of("clu", bank, 1, 4.0)
    own = IdentifyingPolicy(load_policy(policy), people, bank, 4.0)
    again = evaluate(own, bank=bank, split="test", episodes=2, takeover=4.0)
    assert found.metrics["return"] == again.metrics["return"]
    assert not [note for note in found.notes if "another course" in note]
    assert [note for note in evaluate(policy, bank=bank, episodes=1).notes if "first 4 h of another course" in note]
    assert "takeover is 5" in refused("eval", "--policy", policy, "--split", "test", "--takeover", "5")
    with pytest.raises(MedGymError, match="learned with them"):
        IdentifyingPolicy(load_policy(policy), Contexts(("a",), torch.zeros(1, 2)), bank, 4.0)
    diabetes = load_simulators("diabetes-v0")
    with pytest.raises(MedGymError, match="events of an episode"):
        IdentifyingPolicy(load_policy(policy), people, diabetes, 4.0)


# -- learning ----------------------------------------------------------------------------------------------------------


def _weights(policy):
    return torch.cat([value.flatten() for value in policy.net.state_dict().values()])


@pytest.mark.parametrize("scope", ["clu", "context"])
@pytest.mark.usefixtures("toy")
def test_learners_see_train_people_alone(scope, tmp_path, monkeypatch):
    bank = load_simulators("toy-v0")
    config = ContextConfig(steps=20, hidden=8, sessions=2)
    people = people_of(scope, bank, 2, config=config)

    def learned():
        return train("iql", load_dataset(TOY, split="train"), scope, 0, QUICK, people=people, progress=False).policy

    before = learned()
    assert before.scope == scope
    assert set(before.patients or ()) == set(bank.patients)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(shutil.copytree(os.environ["MINARI_DATASETS_PATH"], tmp_path / "m")))
    flat = next((tmp_path / "m").glob("**/rewards.npy"))
    rewards, whole = np.load(flat), load_dataset(TOY)
    rewards[np.isin(whole.patient, [bank.index(p) for p in bank.people("test")])] -= 50.0
    np.save(flat, rewards)
    assert load_dataset(TOY, split="test").rewards.max() < -40.0
    assert torch.equal(_weights(learned()), _weights(before))
    # Who is new changes neither clusters nor encoder: only how the new are known.
    world = bank.current("own")
    index = torch.arange(len(bank))
    index[[bank.index(p) for p in bank.people("test")]] = bank.index(bank.people("train")[0])
    other = people_of(scope, bank.replace(world_data={**bank.world_data, "own": world.select(index)}), 2, config=config)
    kept = [bank.index(p) for p in bank.people("train")]
    if scope == "clu":
        assert other.medoids == people.medoids
    else:
        assert torch.equal(other.embeddings[kept], people.embeddings[kept])


@pytest.mark.usefixtures("toy")
def test_scopes_that_share_ask_for_people_and_rows_of_train_people():
    people, rows = people_of("clu", load_simulators("toy-v0")), load_dataset(TOY, split="train")
    for wrong, match in (
        (lambda: train("bc", rows, "clu", config=QUICK), "people are missing"),
        (lambda: train("bc", rows, "pop", config=QUICK, people=people), "those of scope 'clu'"),
        (lambda: train("bc", load_dataset(TOY), "clu", config=QUICK, people=people), "split='train'"),
    ):
        with pytest.raises(MedGymError, match=match) as found:
            wrong()
        assert "\n" not in str(found.value)
    assert "add --split train" in refused("train", "bc", "--dataset", TOY, "--scope", "clu", "--output", "x")


@pytest.mark.usefixtures("toy")
def test_from_the_command_line_to_a_verified_entry_on_new_people(tmp_path):
    policy, result = tmp_path / "p" / "bc-clu-seed0.safetensors", tmp_path / "result"
    steps = (
        ("train", "bc", "--dataset", TOY, "--scope", "clu", "--split", "train", "--updates", "3",
         "--output", tmp_path / "p"),
        ("eval", "--policy", policy, "--bank", "toy-v0", "--split", "test", "--dataset", TOY, "--episodes", "2",
         "--output", result),
        ("submit", result, "--name", "Clustered", "--output", tmp_path / "s"),
        ("leaderboard", "verify", tmp_path / "s"),
        ("leaderboard", "verify", tmp_path / "s", "--retrain"),
    )  # fmt: skip
    for step in steps:
        done = run(*step)
        assert done.code == 0, (step, done.out, done.err)
    entry = json.loads((tmp_path / "s" / "entry.json").read_text())
    assert (entry["scope"], entry["protocol"]["deviations"]["split"]["used"]) == ("clu", "test")


# -- the study ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_a_share_of_a_gain_that_is_there():
    spread = np.linspace(-0.1, 0.1, 12)
    pop, ind = 4.0 + spread, 2.0 - spread
    share, low, high = kept(pop, ind + 0.25 * (pop - ind), ind) or (0.0, 0.0, 0.0)
    assert share == pytest.approx(75.0)
    assert low == pytest.approx(75.0)
    assert high == pytest.approx(75.0)
    assert kept(pop, pop, pop + spread) is None  # nothing to keep
    assert kept(ind, ind, pop) is None  # one's own policy is worse


def test_a_takeover_is_scored_at_every_length_of_record():
    """What needs no record is trained once; the record of the others ends where they take over."""
    recipe = StudyRecipe.load(HERE / "study.toml")
    part = Part(dataset="medgym/sepsis-twin-mixed-v0", hours=(2, 6, 12))
    arms = part.arms("iql")
    assert [arm for arm in arms if not arm.record] == [Arm("ind", "iql"), Arm("pop", "iql")]
    scored = [one for arm in arms for one in part.scored(arm)]
    assert sorted(scored) == sorted(
        Arm(scope, "iql", hours) for hours in (2, 6, 12) for scope in ("ind", "pop", "clu", "context")
    )
    plain = recipe.part["anesthesia"].arms("iql")
    assert [one for arm in plain for one in recipe.part["anesthesia"].scored(arm)] == plain
