"""Online training for new people, by cluster and by embedding, and under a view."""

import dataclasses

import pytest
import torch

from experiments.people.study import ONLINE, Part, online
from medgym_offline import evaluate, load_simulators
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.errors import MedGymError
from medgym_offline.online import TrainConfig, train, train_behavior, train_behavior_files
from medgym_offline.online.config import BehaviorRecipe
from medgym_offline.online.networks import GaussianActor
from medgym_offline.online.rollouts import ContextualProcess, collect, training_noise
from medgym_offline.patients import people_hash
from medgym_offline.people import Clusters, Contexts
from medgym_offline.policies import load_policy
from tests.helpers import refused
from tests.leaderboard.workshop import run

# With so few rows a weak damping magnifies the last bits of a sum.
QUICK = {"updates": 3, "episodes": 4, "hidden": 8, "value_warmup": 1, "radius": 0.1, "damping": 1.0}
RECIPE = BehaviorRecipe(decisions=6, early_updates=4, early_episodes=4, settings={"dr": QUICK, "ind-scratch": QUICK})
GIVEN = {"recipe": RECIPE, "split": "train", "progress": False}
ASKED = {"sessions": 1, "hours": None, "seed": 0, "view": "full"}
EMBEDDINGS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def bank():
    return load_simulators("toy-v0")


def clusters(bank, *sets):
    """Clusters of these train people; everybody else has joined the first."""
    of = dict.fromkeys(bank.patients, 0) | {p: n for n, some in enumerate(sets) for p in some}
    learned = tuple(p for p in bank.people("train") if any(p in some for some in sets))
    return Clusters(tuple(some[0] for some in sets), of, learned, 0.5, ASKED)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# -- clusters ----------------------------------------------------------------------------------------------------------


def test_one_cluster_is_one_policy_for_all_to_the_bit(bank):
    alone = train_behavior(bank, "adaptive", "dr", **GIVEN)
    people = clusters(bank, bank.people("train"))
    found = train_behavior(bank, "adaptive", "clu", people=people, **GIVEN)
    assert alone.policy.patients is None
    assert (found.policy.patients, found.policy.scope) == (bank.patients, "clu")
    for patient in bank.patients:
        assert same(found.policy.select([patient]), alone.policy)
    assert torch.equal(found.log["return"], alone.log["return"])


def test_a_cluster_does_not_depend_on_the_others(bank):
    a, b, c, d = bank.people("train")
    both = train_behavior(bank, "adaptive", "clu", people=clusters(bank, (a, c), (d, b)), **GIVEN).policy
    fewer = bank.select([a, c])
    one = train_behavior(fewer, "adaptive", "clu", people=clusters(fewer, (a, c)), **GIVEN).policy
    assert same(one.select([a]), both.select([a]))
    assert same(both.select([a]), both.select([c]))
    assert not same(both.select([a]), both.select([b]))
    new = bank.people("test")[0]
    assert same(both.select([new]), both.select([a])), "a new person has the policy of the cluster that was joined"


# -- embeddings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["trpo-lag", "ppo", "sac"])
def test_an_embedding_of_zeros_changes_nothing(bank, algorithm):
    config = TrainConfig(algorithm, shared=True, **QUICK, soft_capacity=400, soft_batch=16, soft_steps=3)
    some, process = bank.select(3), ProcessConfig(disease="toy")
    plain = train(some, process, config, progress=False).policy
    told = train(some, process, config, progress=False, embeddings=torch.zeros(3, 8)).policy
    policy = Contexts(some.patients, torch.zeros(3, 8)).finish(told)
    seen = torch.rand(3, 5, plain.observation_dim, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(policy.act(seen), plain.act(seen), rtol=1e-3, atol=1e-3)
    other = train(some, process, config, progress=False, embeddings=EMBEDDINGS[:3]).policy
    assert (Contexts(some.patients, EMBEDDINGS[:3]).finish(other).act(seen) - plain.act(seen)).abs().max() > 1e-4


def test_what_is_told_stands_before_the_clocks_and_reaches_the_saved_policy(bank):
    some, process = bank.select(2), ProcessConfig(disease="toy")
    told = EMBEDDINGS[:2]
    plain, wide = DecisionProcess(some, process), ContextualProcess(some, process, told)
    seen, more = plain.observe(plain.start(3)), wide.observe(wide.start(3))
    assert torch.equal(more[..., -2:], seen[..., -2:])
    assert torch.equal(more[..., -10:-2], told[:, None].expand(-1, 3, -1))
    assert torch.equal(more[..., :-10], seen[..., :-2])
    config = TrainConfig("trpo", shared=True, **QUICK)
    reads = train(some, process, config, progress=False, embeddings=told).policy
    knows = Contexts(some.patients, told).finish(reads)
    torch.testing.assert_close(knows.act(seen), reads.act(more))


def test_a_policy_that_reads_embeddings_serves_new_people(bank):
    people = Contexts(bank.patients, EMBEDDINGS, ASKED)
    policy = train_behavior(bank, "adaptive", "context", people=people, **GIVEN).policy
    assert (policy.patients, policy.scope) == (bank.patients, "context")
    # Whom nobody learned from does not enter: with other numbers for test people the rest stays.
    other = EMBEDDINGS.clone()
    other[[bank.index(p) for p in bank.people("test")]] += 1.0
    again = train_behavior(bank, "adaptive", "context", people=Contexts(bank.patients, other, ASKED), **GIVEN).policy
    ids = list(bank.people("train"))
    assert same(policy.select(ids), again.select(ids))
    assert not same(policy.select(bank.people("test")), again.select(bank.people("test")))


# -- who is learned from -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["dr", "clu", "context", "ind-scratch", "dr-replay-50"])
def test_only_train_people_are_learned_from_and_the_file_says_so(bank, scope, tmp_path):
    """With other simulators for test people, the file is the same but for the hash of the bank."""
    ids, known = bank.people("train"), torch.tensor([bank.index(p) for p in bank.people("test")])
    own = bank.world_data["own"]
    changed = own.select(torch.arange(6))
    changed.noise[known] *= 3.0
    changed.initial[known] += 0.1
    people = [clusters(bank, ids[:2], ids[2:]), Contexts(bank.patients, EMBEDDINGS, ASKED)]
    policies = []
    given = {"recipe": RECIPE, "split": "train", "people": people}
    for number, one in enumerate((bank, bank.replace(world_data={**bank.world_data, "own": changed}))):
        (path,) = train_behavior_files(one, [(scope, "adaptive")], tmp_path / str(number), False, **given)
        policies.append(load_policy(path))
    assert same(*policies)
    facts = policies[0].provenance
    assert facts["people"] == {"split": "train", "sha256": people_hash(ids)}
    assert facts["scope"] == scope
    assert ("record" in facts) == (scope in ("clu", "context"))
    assert policies[0].patients == {"clu": bank.patients, "context": bank.patients, "ind-scratch": ids}.get(scope)


def test_others_cannot_enter(bank):
    ids, new = bank.people("train"), bank.people("test")
    for scope, given, why in (
        ("clu", {"split": None}, "give split 'train'"),
        ("context", {"split": "test"}, "give split 'train'"),
        ("clu", {}, "people_of"),
        ("clu", {"people": Contexts(bank.patients, EMBEDDINGS)}, r"people_of\('clu'"),
        ("clu", {"people": Clusters(ids[:1], dict.fromkeys(bank.patients, 0), bank.patients, 0.5)}, "of 6 people"),
        ("context", {"people": Contexts(new, EMBEDDINGS[:2])}, "embeddings"),
        ("pop", {}, "fitted to the people of both sides"),
    ):
        refused(MedGymError, why, lambda who=scope, more=given: train_behavior(bank, "fixed", who, **GIVEN | more))
    early = [("pop-medium", "fixed")]
    refused(MedGymError, "both sides", lambda: train_behavior_files(bank, early, progress=False, split="train"))
    refused(MedGymError, "side 'train'", lambda: train_behavior(bank.select(list(new)), "fixed", "dr", **GIVEN))


def test_the_command_trains_for_new_people_and_an_entry_of_theirs_is_verified(tmp_path):
    (tmp_path / "recipe.toml").write_text("decisions = 6\n[settings.dr]\nupdates = 2\nepisodes = 2\nhidden = 8\n")
    home = ("--output", tmp_path / "runs")
    options = ("--bank", "toy-v0", "--recipe", tmp_path / "recipe.toml", "--scope", "clu", *home)
    assert "add --split train" in run("behavior", "train", *options).err
    assert "learns from all" in run("behavior", "train", *options, "--split", "train", "--patients", "2").err
    done = run("behavior", "train", *options, "--split", "train", "--record", "2")
    assert done.code == 0, done.err
    assert "--split test" in done.out
    file = tmp_path / "runs/toy-v0-clu-adaptive.safetensors"
    assert load_policy(file).provenance["record"] == {"sessions": 2, "hours": None, "seed": 0, "view": "full"}
    result = ("--bank", "toy-v0", "--split", "test", "--episodes", "2", "--output", tmp_path / "result")
    for step in (
        ("eval", "--policy", file, *result),
        ("submit", tmp_path / "result", "--name", "Online", "--output", tmp_path / "s"),
        ("leaderboard", "verify", tmp_path / "s"),
    ):
        done = run(*step)
        assert done.code == 0, (step, done.out, done.err)


@pytest.mark.parametrize("scope", ["ind", "pop", "context"])
def test_arms_of_the_study_are_trained_on_the_side_that_they_say(bank, scope):
    arms = Part(dataset="any", records=(1, 3), online=True).arms("iql")
    (arm,) = [arm for arm in arms if (arm.scope, arm.learner) == (scope, ONLINE)]
    assert arm.record == (3 if scope == "context" else 0)
    people = Contexts(bank.patients, EMBEDDINGS, ASKED) if scope == "context" else None
    recipe = dataclasses.replace(RECIPE, settings=dict.fromkeys(("dr", "ind"), QUICK))
    policy, side = online(arm, bank, "adaptive", people, recipe).policy, "test" if scope == "ind" else "train"
    assert policy.provenance["people"] == {"split": side, "sha256": people_hash(bank.people(side))}
    assert policy.provenance["world"] == "own"
    assert policy.scope == scope
    assert evaluate(policy, bank=bank, split="test", episodes=2).per_patient["severity_mean"].shape == (2,)


# -- views -------------------------------------------------------------------------------------------------------------

CHARTED = ProcessConfig(disease="toy", view="charted")


def test_what_is_not_seen_changes_nothing(bank):
    """Values and errors of measurements that give none, and values before they are taken."""
    some = bank.select(3)
    noise = training_noise(0, "test", some, CHARTED, 0, 20)
    never = noise.view[..., 1].isinf()
    assert never.any()
    assert not never.all()
    other = noise.view.clone()
    other[..., 3] = 7.0
    other[..., 2] = torch.where(never, -other[..., 2] + 3.0, other[..., 2])
    actor = GaussianActor((CHARTED.observation_dim, 8, 8, CHARTED.action_dim))
    theta = 0.5 * torch.randn(3, actor.count, generator=torch.Generator().manual_seed(0))
    process = DecisionProcess(some, CHARTED)

    def played(view):
        return collect(process, actor, theta, dataclasses.replace(noise, view=view))

    ours, theirs = played(noise.view), played(other)
    for name, value in vars(ours).items():
        assert torch.equal(value, getattr(theirs, name)), name
    seen = noise.view.clone()
    seen[..., 2] += 1.0  # the errors of those that are seen
    assert not torch.equal(played(seen).observations, ours.observations)


def test_measurements_of_a_patient_are_the_same_alone_and_those_of_an_update_its_own(bank):
    both = training_noise(0, "x", bank.select([2, 1]), CHARTED, 5, 3)
    alone, later = (training_noise(0, "x", bank.select([1]), CHARTED, update, 3) for update in (5, 6))
    assert torch.equal(both.view[1], alone.view[0])
    assert not torch.equal(alone.view, later.view)
    full = training_noise(0, "x", bank.select([1]), dataclasses.replace(CHARTED, view="full"), 5, 3)
    assert full.view is None
    assert torch.equal(full.process, alone.process)


@pytest.mark.parametrize(("algorithm", "view"), [("trpo", "noisy"), ("ppo-lag", "charted"), ("sac", "charted")])
def test_every_algorithm_learns_under_a_view_and_its_policy_says_so(bank, algorithm, view):
    process = ProcessConfig(disease="toy", view=view)
    config = TrainConfig(algorithm, **QUICK, soft_capacity=100, soft_batch=16, soft_steps=3)
    together = train(bank, process, config, progress=False)
    assert (together.policy.view, together.policy.observation_dim) == (view, process.observation_dim)
    assert together.stopped == {}
    alone = train(bank.select([2]), process, config, progress=False)
    torch.testing.assert_close(alone.state.actor, together.state.actor[2:3], rtol=1e-3, atol=1e-3)


def test_the_policy_of_a_view_is_scored_under_it(bank, tmp_path):
    people = Contexts(bank.patients, EMBEDDINGS, ASKED)
    policy = train_behavior(bank, "adaptive", "context", people=people, view="charted", **GIVEN).policy
    assert evaluate(policy, bank=bank, split="test", episodes=2).protocol["view"] == "charted"
    given = {"recipe": RECIPE, "checkpoints": tmp_path, "progress": False}
    train_behavior(bank, "adaptive", "dr", view="noisy", **given)
    refused(MedGymError, "another recipe", lambda: train_behavior(bank, "adaptive", "dr", view="charted", **given))
