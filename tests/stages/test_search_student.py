"""The search for a student: what is tried, what is refused, what is chosen and why."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from made_costs import sure
from made_lists import lists_context, save_lists

from harness import registry
from harness.artifact import ModelSpec, Step
from harness.errors import EffectError, RecipeError, TrainingError, UnsupportedError
from harness.loading import load_recipes
from harness.modules import build_module, count_macs, load_module
from harness.objectives import predict
from harness.stages import graph_timing
from harness.stages import search_student as searching
from harness.stages.distill import distill
from harness.stages.proposals import Proposals
from harness.stages.search_student import search_student

SPACE = {"dim": [4, 8], "top": [[8], [12], [16, 8]]}
QUICK = {"trial_epochs": 0.1, "epochs": 0.2, "max_macs_ratio": 0.9}


def effect(outcome, name):
    return next(e for e in outcome.effects if e.name == name)


def tried(outcome):
    return [note for note in outcome.notes if note.startswith("trial ")]


@pytest.fixture
def losses(monkeypatch):
    """``losses(of)``: students aren't trained in trials, their loss is ``of(parameters)``; gives
    the list of what was tried."""

    def use(of):
        seen = []
        real = searching.teach

        def teach(module, student, context, training, **kwargs):
            if training.epochs == QUICK["epochs"]:
                return real(module, student, context, training, **kwargs)
            seen.append(student.model.parameters)
            return None

        def loss(module, context, inputs, training):
            return of(seen[-1]) if seen else 1.0

        monkeypatch.setattr(searching, "teach", teach)
        monkeypatch.setattr(searching, "validation_loss", loss)
        return seen

    return use


def test_a_grid_smaller_than_the_trials_is_tried_once_each(tiny_artifact, make_context, losses):
    seen = losses(lambda p: 1.0 - p["dim"] / 100 - len(p["top"]) / 1000)
    outcome = search_student(tiny_artifact, make_context(), student=SPACE, trials=50, **QUICK)
    points = [(p["dim"], tuple(p["top"])) for p in seen]
    assert sorted(points) == sorted(
        (dim, tuple(top)) for dim, top in itertools.product(*SPACE.values())
    )
    told = effect(outcome, "trials")
    assert (told.before, told.after, told.asked) == (0, 6, 6)
    assert outcome.artifact.model.parameters == {"dim": 8, "bottom": [16], "top": [16, 8]}
    assert outcome.notes[0] == (
        "chosen: dim 8, top [16, 8]: the lowest validation (0.91800, the next has 0.91900) of 6 "
        "trials; 6 points are within the limit of MACs"
    )
    macs = outcome.artifact.macs
    line = f"dim 8, top [16, 8]: {macs:,} MACs ({macs / tiny_artifact.macs:.3f}), validation 0.91"
    assert sum(line in note for note in tried(outcome)) == 1


def test_the_chosen_student_is_what_distill_makes_of_it(
    tiny_artifact, make_context, tiny, score_alone, file_hashes
):
    before = file_hashes(tiny_artifact.folder)
    space = {"dim": [2, 8], "top": [[8]]}
    outcome = search_student(
        tiny_artifact,
        make_context("s"),
        student=space,
        trial_epochs=2,
        epochs=3,
        max_macs_ratio=0.5,
        alpha=0.7,
        temperature=1.0,
    )
    found = [float(note.split("validation ")[1].split()[0]) for note in tried(outcome)]
    chosen = outcome.artifact.model.parameters
    best = tried(outcome)[int(np.argmin(found))]
    assert f"dim {chosen['dim']}, top [8]" in best
    plain = distill(
        tiny_artifact,
        make_context("d"),
        student={"dim": chosen["dim"], "top": [8]},
        epochs=3,
        alpha=0.7,
        temperature=1.0,
    )
    assert file_hashes(plain.artifact.folder) == file_hashes(outcome.artifact.folder)
    assert effect(outcome, "macs").asked == tiny_artifact.macs * 0.5
    assert outcome.artifact.macs <= tiny_artifact.macs * 0.5
    assert file_hashes(tiny_artifact.folder) == before
    split = tiny.splits["test"]
    here = predict(load_module(outcome.artifact), tiny, split, outcome.artifact.inputs)
    np.testing.assert_allclose(score_alone(outcome.artifact), here, atol=1e-6)


def test_students_over_the_limit_are_never_trained(tiny_artifact, make_context, losses, tiny):
    def macs(dim, top):
        spec = ModelSpec("dlrm", {"dim": dim, "bottom": [16], "top": top})
        module = build_module(spec, tiny.schema, folder=tiny_artifact.folder, seed=0)
        return count_macs(module, tiny_artifact.inputs)

    limit = macs(4, [12]) / tiny_artifact.macs
    seen = losses(lambda p: 1.0)
    asked = {**QUICK, "max_macs_ratio": limit}
    outcome = search_student(tiny_artifact, make_context(), student=SPACE, **asked)
    points = itertools.product(SPACE["dim"], SPACE["top"])
    wanted = [(d, t) for d, t in points if macs(d, t) <= macs(4, [12])]
    assert sorted((p["dim"], p["top"]) for p in seen) == sorted(wanted)
    assert 1 < len(wanted) < 6
    # Equal losses: the fewest MACs.
    assert outcome.artifact.macs == min(macs(d, t) for d, t in wanted)


@pytest.mark.parametrize("ratio", [0.0, 0.001])
def test_a_limit_that_no_student_meets_is_refused_before_training(
    tiny_artifact, make_context, losses, ratio
):
    seen = losses(lambda p: 1.0)
    message = r"of 6 points 0 have at most \d+ of the model's 1,464 MACs: the fewest are \d+ \(dim"
    with pytest.raises(UnsupportedError, match=message):
        search_student(
            tiny_artifact, make_context(), student=SPACE, **{**QUICK, "max_macs_ratio": ratio}
        )
    assert seen == []


def test_a_limit_that_one_student_meets_leaves_nothing_to_search(tiny_artifact, make_context):
    space = {"top": [[2], [64, 64]]}
    with pytest.raises(UnsupportedError, match=r"only top \[2\] has so few; distil it with"):
        search_student(tiny_artifact, make_context(), student=space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "make 1 point; expected 2 to 1000: give more values"),
        ({"dim": [8]}, "make 1 point; expected 2 to 1000"),
        ({"dim": 8}, "dim: expected a list of values to choose from, got 8"),
        ({"dim": "48"}, "dim: expected a list of values to choose from, got '48'"),
        ({"dim": [4, 8], "top": []}, "top: expected a list of values"),
        ({"dim": [8, 16, 8.0]}, "dim: given twice: 8"),
        ({"dim": [*range(1, 40)], "heads": [*range(40)]}, "make 1560 points; .* give fewer values"),
    ],
)
def test_spaces_that_are_none_are_refused_when_the_recipe_is_loaded(space, message):
    with pytest.raises(registry.ValidationError, match=message):
        registry.bind("stages", "search_student", {"student": space})


RECIPE = """schema_version: 1
name: searched
baseline: made.yaml
stages:
  - search_student:
      student: {STUDENT}
targets: [ort-cpu]
"""
BASELINE = """schema_version: 1
name: made
dataset:
  generated: {rows: 1000}
model:
  dlrm: {dim: 8, bottom: [16], top: [32, 16]}
"""


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ("dims: [4, 8]", ["student.dims: unknown parameter 'dims'; did you mean 'dim'?"]),
        (
            "dim: [4, 0], top: [[8, 4], [8, x]]",
            [
                "student.dim: input should be greater than or equal to 1, got 0",
                "student.top[1]: expected a number, got str 'x'",
            ],
        ),
        ("dim: [8]", ["student: the values make 1 point"]),
    ],
)
def test_a_recipe_says_what_is_wrong_with_its_space(tmp_path, student, told):
    (tmp_path / "made.yaml").write_text(BASELINE)
    path = tmp_path / "searched.yaml"
    path.write_text(RECIPE.replace("STUDENT", student))
    with pytest.raises(RecipeError) as caught:
        load_recipes([path])
    problems = [str(problem) for problem in caught.value.problems]
    assert len(problems) == len(told), problems
    for text in told:
        assert any(f"stages[0].search_student.{text}" in problem for problem in problems), problems


def test_a_recipe_with_a_good_space_is_loaded(tmp_path):
    (tmp_path / "made.yaml").write_text(BASELINE)
    path = tmp_path / "searched.yaml"
    path.write_text(RECIPE.replace("STUDENT", "dim: [4, 8], top: [[8], [16, 8]]"))
    (recipe,) = load_recipes([path])
    assert recipe.stages[0].parameters["student"] == {"dim": [4, 8], "top": [[8], [16, 8]]}


def test_a_parameter_that_the_model_lacks_is_refused_before_training(
    tiny_artifact, make_context, losses
):
    seen = losses(lambda p: 1.0)
    message = r"search_student: student of model dlrm: unknown parameter 'dims'"
    with pytest.raises(UnsupportedError, match=message):
        search_student(tiny_artifact, make_context(), student={"dims": [4, 8]})
    assert seen == []


def test_after_other_stages_it_is_refused(tiny_artifact, make_context):
    step = Step("prune_channels", {"ratio": 0.5}, 1.0, 1.0, ())
    pruned = replace(tiny_artifact, lineage=(step,))
    message = r"\(prune_channels\); put search_student first$"
    with pytest.raises(UnsupportedError, match=message):
        search_student(pruned, make_context(), student=SPACE)


def test_when_the_time_is_over_the_best_so_far_is_kept(
    tiny_artifact, make_context, losses, monkeypatch
):
    seen = losses(lambda p: len(seen))  # the first is the best
    times = iter([0.0, 40.0, 80.0])  # start, before the second and before the third trial
    monkeypatch.setattr(searching, "clock", lambda: next(times))
    outcome = search_student(tiny_artifact, make_context(), student=SPACE, minutes=1, **QUICK)
    assert len(seen) == 2
    assert outcome.artifact.model.parameters == dict(seen[0])
    assert " of 2 trials of 6 asked; " in outcome.notes[0]
    assert outcome.notes[0].endswith("; 1 minutes were over")
    assert effect(outcome, "trials").after == 2


def test_a_trial_that_diverges_is_told_and_the_search_goes_on(
    tiny_artifact, make_context, monkeypatch
):
    real = searching.teach

    def teach(module, student, *args, **kwargs):
        if student.model.parameters["dim"] == 8:
            raise TrainingError("loss is nan at step 1 of 3")
        return real(module, student, *args, **kwargs)

    monkeypatch.setattr(searching, "teach", teach)
    space = {"dim": [4, 8], "top": [[8]]}
    outcome = search_student(tiny_artifact, make_context("a"), student=space, **QUICK)
    assert outcome.artifact.model.parameters["dim"] == 4
    assert sum(note.endswith("loss is nan at step 1 of 3") for note in tried(outcome)) == 1
    assert " of 1 trials of 2 asked; " in outcome.notes[0]
    bad = {"dim": [8], "top": [[8], [12]]}
    context = make_context("b")
    with pytest.raises(TrainingError, match=r"no trial could be trained \(trial 1: dim 8, top"):
        search_student(tiny_artifact, context, student=bad, **QUICK)
    assert list(context.folder.iterdir()) == []


def test_students_that_are_too_slow_are_passed_over(
    tiny_artifact, make_context, losses, monkeypatch
):
    seen = losses(lambda p: 1 / p["dim"])
    monkeypatch.setattr(searching, "exported", lambda module, artifact, bench, name: artifact)

    def timer(before, after, batches, *, seconds, level=0.99):
        return sure(before.model.parameters["dim"] / after.model.parameters["dim"])

    monkeypatch.setattr(graph_timing, "time_pair", timer)
    space = {"dim": [2, 3, 4, 5, 6], "top": [[8]]}
    asked = {"student": space, "min_speedup": 2.0, **QUICK}
    outcome = search_student(tiny_artifact, make_context("a"), trials=4, **asked)
    assert {p["dim"] for p in seen} <= {2, 3, 4}
    assert outcome.artifact.model.parameters["dim"] == max(p["dim"] for p in seen)
    assert all("below 2x, not trained" in n for n in tried(outcome) if "dim 5" in n or "dim 6" in n)
    assert any("2.00x [2.00, 2.00] as quick" in n for n in tried(outcome) if "dim 4" in n)
    count = len(seen)
    with pytest.raises(UnsupportedError, match=r"no student is 9x as quick as the model \(trial 1"):
        search_student(tiny_artifact, make_context("b"), **{**asked, "min_speedup": 9.0})
    assert len(seen) == count


def test_the_same_seed_tries_the_same(tiny_artifact, make_context, losses):
    seen = losses(lambda p: abs(p["dim"] - 5) + p["bottom"][0] / 100)
    space = {"dim": [*range(2, 9)], "bottom": [[w] for w in range(2, 16)]}
    for name, seed in (("a", 11), ("b", 11), ("c", 12)):
        context = make_context(name, seed=seed)
        search_student(tiny_artifact, context, student=space, trials=8, **QUICK)
    one, two, three = (
        [(p["dim"], p["bottom"][0]) for p in seen[8 * at : 8 * at + 8]] for at in range(3)
    )
    assert one == two != three
    assert len(set(one)) == 8


def test_lists_are_searched_by_their_own_validation(tiny_sequences, tmp_path):
    spec = ModelSpec("sasrec", {"dim": 16, "heads": 1, "blocks": 1, "top": 20})
    artifact = save_lists(tiny_sequences, spec, tmp_path / "m")
    context = lists_context(tiny_sequences, artifact, tmp_path / "out")
    outcome = search_student(artifact, context, student={"dim": [4, 8]}, teacher_top=10, **QUICK)
    assert outcome.artifact.model.parameters["dim"] in (4, 8)
    assert all("1 - NDCG@10" in note for note in tried(outcome))


def test_settings_without_effect_are_refused(tiny_artifact, make_context):
    with pytest.raises(UnsupportedError, match="search_student: teacher_top 5 is for lists"):
        search_student(tiny_artifact, make_context("a"), student=SPACE, teacher_top=5)
    with pytest.raises(EffectError, match="search_student had no effect: every weight is as"):
        search_student(tiny_artifact, make_context("b"), student=SPACE, learning_rate=1e-30)


@pytest.mark.parametrize("trials", [3, 10, 40])
def test_proposals_are_points_that_fit_and_none_comes_twice(trials):
    space = {"a": [*range(8)], "b": [*range(8)]}
    points = [place for place in itertools.product(range(8), range(8)) if sum(place) < 8]  # 36
    proposals = Proposals(space, points, trials=trials, seed=1)
    seen = []
    while proposals.left and len(seen) < trials:
        seen.append(proposals.next())
        proposals.tell(seen[-1], float(sum(seen[-1])))
    assert len(seen) == len(set(seen)) == min(trials, 36)
    assert set(seen) <= set(points)


def test_proposals_learn_where_it_is_good():
    space = {"a": [*range(20)], "b": [*range(20)]}
    points = list(itertools.product(range(20), range(20)))
    means = []
    for seed in range(5):
        proposals, found = Proposals(space, points, trials=40, seed=seed), []
        for _ in range(40):
            a, b = place = proposals.next()
            found.append((a - 14) ** 2 + (b - 3) ** 2)
            proposals.tell(place, float(found[-1]))
        means.append(np.mean(found[20:]))
    # Drawn at random the mean is the variance of 0 to 19 and the square of the middle's distance,
    # twice: 33.25 + 20.25 + 33.25 + 42.25 = 129.
    assert np.mean(means) < 60
