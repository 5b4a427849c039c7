from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from harness import registry
from harness.artifact import ModelSpec, Step
from harness.errors import DataError, EffectError, UnsupportedError
from harness.modules import build_module, load_module
from harness.objectives import predict
from harness.stages import teacher as teacher_file
from harness.stages.distill import distill
from harness.stages.divergence import click_distillation_loss, distillation_loss
from harness.stages.prune_channels import prune_channels
from harness.stages.teacher import TeacherScores, teacher_scores
from harness.training import fit

SMALL = {"dim": 4, "bottom": [8], "top": [16, 8]}
STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
TEACHER = torch.tensor([[1.0, 1.0, -2.0], [0.5, 0.0, 0.5]])


def scores(artifact, data, split="test"):
    return predict(load_module(artifact), data, data.splits[split], artifact.inputs)


def effects(outcome):
    return {effect.name: (effect.before, effect.after) for effect in outcome.effects}


def test_loss_is_summed_over_classes_and_scaled_by_the_squared_temperature():
    # Not 0.118285 (mean over classes too) and not 0.088714 (no factor 4).
    assert distillation_loss(STUDENT, TEACHER, 2.0).item() == pytest.approx(0.354855, abs=1e-6)


def test_equal_logits_give_no_loss_and_no_gradient():
    student = TEACHER.clone().requires_grad_()
    loss = distillation_loss(student, TEACHER, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert student.grad.abs().max().item() < 1e-7


def test_no_gradient_reaches_the_teacher():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    distillation_loss(student, teacher, 2.0).backward()
    assert teacher.grad is None
    assert student.grad.abs().max().item() > 0.1


def test_click_loss_is_the_two_class_case():
    student, teacher = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0])
    p, q = torch.sigmoid(teacher / 2), torch.sigmoid(student / 2)
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * 4
    assert click_distillation_loss(student, teacher, 2.0).item() == pytest.approx(by_hand.item())
    gap = F.binary_cross_entropy_with_logits(student / 2, p) + (p * p.log()).mean()
    gap = gap + ((1 - p) * (1 - p).log()).mean()
    assert gap.item() * 4 == pytest.approx(by_hand.item(), rel=1e-5)


def test_high_temperature_matches_logits():
    # T^2 KL -> (difference of logits)^2 / 8 for two classes (Hinton et al., section 2.1).
    student, teacher = (torch.tensor([z], dtype=torch.float64) for z in (1.5, 0.5))
    assert click_distillation_loss(student, teacher, 500.0).item() == pytest.approx(1 / 8, rel=1e-4)


def test_scores_are_found_by_row_id_whatever_the_order():
    held = TeacherScores(np.array([3, 7, 20, 21]), np.array([0.3, 0.7, 2.0, 2.1], dtype=np.float32))
    np.testing.assert_array_equal(
        held.of(np.array([21, 3, 3, 20])), np.array([2.1, 0.3, 0.3, 2.0], dtype=np.float32)
    )
    with pytest.raises(DataError, match=r"row id 8 has no teacher score \(2 rows haven't\)"):
        held.of(np.array([3, 8, 99]))


def test_teacher_is_scored_once_in_eval_mode_and_kept_by_row_id(
    make_context, tiny, monkeypatch, save_artifact
):
    context = make_context()
    train = tiny.splits["train"]
    shuffled_ids = np.random.default_rng(0).permutation(train.row_id)
    data = replace(tiny, splits={**tiny.splits, "train": replace(train, row_id=shuffled_ids)})
    context = replace(context, data=replace(data, hash="tiny-shuffled"))
    held = teacher_scores(context.baseline, context)
    expected = scores(context.baseline, data, "train")
    np.testing.assert_array_equal(held.of(shuffled_ids), expected)
    part = np.array([5, 1000, 3, 77])
    np.testing.assert_array_equal(held.of(shuffled_ids[part]), expected[part])
    assert isinstance(held.logits, np.memmap)
    monkeypatch.setattr(teacher_file, "_score", None)  # a second scoring would fail
    again = teacher_scores(context.baseline, context)
    np.testing.assert_array_equal(again.logits, held.logits)
    assert len(context.store.made) == 1


def test_other_data_or_other_teacher_is_scored_anew(make_context, tiny_artifact, save_artifact):
    context = make_context()
    other = save_artifact(ModelSpec("dlrm", {**SMALL}), name="other")
    teacher_scores(tiny_artifact, context)
    teacher_scores(other, context)
    teacher_scores(tiny_artifact, replace(context, data=replace(context.data, hash="tiny-2")))
    assert len(set(context.store.made)) == 3


def test_a_teacher_with_broken_weights_is_refused(make_context, tiny_artifact, save_artifact):
    module = load_module(tiny_artifact)
    with torch.no_grad():
        module.top[-1].bias.fill_(3e38)
        module.top[-1].weight.fill_(3e38)
    broken = save_artifact(tiny_artifact.model, name="broken", module=module)
    with pytest.raises(DataError, match=r"teacher dlrm: the score of row id \d+ is (inf|nan)"):
        teacher_scores(broken, make_context())


def test_a_small_student_is_made_from_its_widths(
    tiny_artifact, make_context, tiny, score_alone, file_hashes
):
    before = file_hashes(tiny_artifact.folder)
    outcome = distill(tiny_artifact, make_context(), epochs=3, student=SMALL)
    student = outcome.artifact
    assert student.model.parameters == SMALL
    assert student.widths == {
        "bottom.0": (8, 2),
        "bottom.2": (4, 8),
        "top.0": (16, 14),
        "top.2": (8, 16),
        "top.4": (1, 8),
    }
    told = effects(outcome)
    assert told["parameters"] == (tiny_artifact.parameters, student.parameters)
    # The file holds the student only.
    stored = load_file(student.file)
    assert sum(tensor.numel() for tensor in stored.values()) == student.parameters
    assert student.parameters < tiny_artifact.parameters
    assert told["macs"][1] < told["macs"][0]
    assert told["validation_loss"][1] < told["validation_loss"][0]
    assert told["validation_loss:teacher_to_student"][1] == told["validation_loss"][1]
    assert file_hashes(tiny_artifact.folder) == before
    np.testing.assert_allclose(score_alone(student), scores(student, tiny), atol=1e-6)


def test_alpha_1_learns_the_teacher_and_not_the_labels(tiny_artifact, make_context, tiny):
    flipped = replace(tiny.splits["train"], label=1 - tiny.splits["train"].label)
    data = replace(tiny, splits={**tiny.splits, "train": flipped}, hash="tiny-flipped")
    context = make_context(data=data)
    student = distill(tiny_artifact, context, epochs=4, alpha=1.0, student=SMALL).artifact
    agreement = np.corrcoef(scores(student, tiny), scores(tiny_artifact, tiny))[0, 1]
    assert agreement > 0.5


def test_alpha_0_is_plain_training_with_the_same_seed(tiny_artifact, make_context, tiny):
    context = make_context()
    outcome = distill(tiny_artifact, context, epochs=1, alpha=0.0, student=SMALL)
    plain = build_module(
        ModelSpec("dlrm", SMALL), tiny.schema, folder=tiny_artifact.folder, seed=context.seed
    )
    training = replace(context.training, epochs=1)
    fit(
        plain,
        tiny,
        tiny_artifact.inputs,
        training,
        seed=context.seed,
        threads=1,
        progress=context.progress,
    )
    stored = load_file(outcome.artifact.file)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(stored[name], tensor), name
    assert context.store.made == []
    assert "alpha 0: trained on the labels alone" in outcome.notes[-1]


def test_a_pruned_artifact_is_its_own_student(tiny_artifact, make_context, file_hashes):
    pruned = prune_channels(tiny_artifact, make_context("pruned"), ratio=0.5).artifact
    before = file_hashes(pruned.folder), file_hashes(tiny_artifact.folder)
    outcome = distill(pruned, make_context("student"), epochs=2)
    assert outcome.artifact.widths == pruned.widths
    told = effects(outcome)
    assert told["validation_loss"][1] < told["validation_loss"][0]
    assert (file_hashes(pruned.folder), file_hashes(tiny_artifact.folder)) == before


def test_a_new_student_after_other_stages_is_refused(tiny_artifact, make_context):
    step = Step("prune_channels", {"ratio": 0.5}, 1.0, 1.0, ())
    pruned = replace(tiny_artifact, lineage=(step,))
    message = r"a new student .* would throw away the stages before it \(prune_channels\)"
    with pytest.raises(UnsupportedError, match=message):
        distill(pruned, make_context(), student=SMALL)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            {"dims": 8},
            r"distill: student of model dlrm: unknown parameter 'dims'; did you mean 'dim'",
        ),
        ({"top": [16, 0]}, "student of model dlrm: input should be greater than or equal to 1"),
        ({"dim": "8"}, "student of model dlrm: expected a number, got str '8'"),
    ],
)
def test_a_student_that_the_model_does_not_know_is_refused(
    tiny_artifact, make_context, student, message
):
    with pytest.raises(UnsupportedError, match=message):
        distill(tiny_artifact, make_context(), student=student)


def test_a_users_own_model_distils_to_smaller_parameters(rec_artifact, make_context):
    context = make_context(baseline=rec_artifact)
    student = {"parameters": {"hidden": 4, "dim": 4}}
    outcome = distill(rec_artifact, context, student=student)
    assert outcome.artifact.widths == {"f1": (4, 8), "f2": (4, 4), "out": (1, 4)}
    assert (outcome.artifact.folder / "model.py").is_file()


def test_a_teacher_with_dropout_is_asked_in_eval_mode(make_context, save_artifact, tiny):
    source = (
        "import torch\nfrom torch import nn\n\n\nclass Rec(nn.Module):\n"
        "    def __init__(self, n_users):\n        super().__init__()\n"
        "        self.table = nn.Embedding(n_users, 4)\n        self.drop = nn.Dropout(0.5)\n"
        "        self.out = nn.Linear(4, 1)\n\n    def forward(self, user):\n"
        "        return self.out(self.drop(self.table(user))).squeeze(-1)\n"
    )
    spec = ModelSpec("file", {"path": "model.py", "attribute": "Rec", "parameters": {}}, "model.py")
    artifact = save_artifact(spec, name="dropping", source=source)
    context = make_context()
    held = teacher_scores(artifact, context)
    table = load_module(artifact)
    assert not table.training
    train = tiny.splits["train"]
    users = torch.from_numpy(train.user_of_row.astype(np.int64))
    with torch.no_grad():
        expected = table.out(table.table(users)).squeeze(-1).numpy()
    np.testing.assert_allclose(held.of(train.row_id), expected, atol=1e-6)


def test_weights_that_do_not_move_are_an_error(tiny_artifact, make_context):
    with pytest.raises(EffectError, match="distill had no effect: every weight is as before"):
        distill(tiny_artifact, make_context(), epochs=0.1, learning_rate=1e-30)


@pytest.mark.parametrize(
    "values", [{"temperature": 0}, {"alpha": 1.5}, {"alpha": -0.1}, {"epochs": 0}]
)
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(registry.ValidationError) as caught:
        registry.bind("stages", "distill", values)
    assert caught.value.errors()[0]["loc"] == tuple(values)
