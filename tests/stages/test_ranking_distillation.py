"""Distillation of next items: the loss by hand, what alpha does, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_lists import TIED, TRAINING, lists_context, save_lists
from safetensors.torch import load_file
from torch.nn import functional as F

from harness.artifact import Artifact, ModelSpec
from harness.errors import UnsupportedError
from harness.modules import build_module, load_module
from harness.next_items import NextItems
from harness.objectives import tensors
from harness.stages.base import Context
from harness.stages.distill import distill
from harness.stages.ranking_distillation import TaughtItems, Teaching, top_items
from harness.tables import Prepared
from harness.training import fit

TEACHER = ModelSpec("sasrec", {"dim": 16, "heads": 2, "top": 20})
SMALL = {"dim": 8, "blocks": 1, "heads": 1}
SETTINGS = {"full": TRAINING, "gbce": replace(TRAINING, loss="gbce", negatives=20)}


@pytest.fixture(scope="session")
def taught(tiny_sequences: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("teacher") / "sasrec"
    start = save_lists(tiny_sequences, TEACHER, folder)
    module = load_module(start)
    fit(
        module,
        tiny_sequences,
        start.inputs,
        replace(TRAINING, epochs=8),
        seed=5,
        threads=1,
        progress=lambda label, share: None,
    )
    return save_lists(
        tiny_sequences,
        TEACHER,
        folder.with_name("trained"),
        change=lambda fresh: fresh.load_state_dict(module.state_dict()),
    )


@pytest.fixture
def room(tiny_sequences: Prepared, taught: Artifact, tmp_path: Path) -> Callable[[str], Context]:
    """``room(name)``: a context with a new folder and the trained teacher."""
    return lambda name: lists_context(tiny_sequences, taught, tmp_path / name)


def student_of(data: Prepared, folder: Path, **parameters: object) -> torch.nn.Module:
    spec = ModelSpec("sasrec", {**TEACHER.parameters, **SMALL, "dropout": 0.0, **parameters})
    return build_module(spec, data.schema, folder=folder, seed=3)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_is_the_hard_one_and_the_teachers_top(
    name: str, tiny_sequences: Prepared, taught: Artifact, tmp_path: Path
) -> None:
    student, teacher = student_of(tiny_sequences, tmp_path), load_module(taught)
    at, alpha, heat, top = np.array([3, 50, 7]), 0.3, 2.0, 5
    parts = (tiny_sequences, taught.inputs, SETTINGS[name])
    objective = TaughtItems(
        student, *parts, seed=1, teaching=Teaching(teacher, alpha, temperature=heat, top=top)
    )
    plain = NextItems(student, *parts, seed=1)
    torch.manual_seed(4)
    found = objective.loss(student, at)
    torch.manual_seed(4)  # the same items are drawn
    hard = plain.loss(student, at)
    with torch.no_grad():
        asked, items = plain.queries(student, at)
        known, same = plain.queries(teacher, at)
        soft = 0.0
        for query, told in zip(asked, known, strict=True):
            right = (teacher.catalogue.table @ told)[1:]
            best = right.argsort(descending=True)[:top]
            p = (right[best] / heat).softmax(0)
            q = ((student.catalogue.table @ query)[1:][best] / heat).softmax(0)
            soft += float((p * (p / q).log()).sum())
    assert torch.equal(items, same)
    soft *= heat**2 / len(items)
    assert found.item() == pytest.approx(0.7 * hard.item() + 0.3 * soft, rel=1e-4)


def test_no_gradient_reaches_the_teacher(
    tiny_sequences: Prepared, taught: Artifact, tmp_path: Path
) -> None:
    student, teacher = student_of(tiny_sequences, tmp_path), load_module(taught)
    teaching = Teaching(teacher, 1.0, temperature=1.0, top=10)
    objective = TaughtItems(
        student, tiny_sequences, taught.inputs, TRAINING, seed=1, teaching=teaching
    )
    objective.loss(student, np.arange(8)).backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert student.catalogue.table.grad[1:].abs().max() > 0
    assert not teacher.training


def test_a_small_student_learns_its_teachers_lists(
    tiny_sequences: Prepared, room: Callable[[str], Context], taught: Artifact
) -> None:
    untaught = distill(taught, room("none"), epochs=6, alpha=0.0, student=SMALL)
    outcome = distill(taught, room("out"), epochs=6, alpha=0.7, temperature=1.0, student=SMALL)
    made = outcome.artifact
    assert made.model.parameters == {**TEACHER.parameters, **SMALL}
    told = {effect.name: (effect.before, effect.after) for effect in outcome.effects}
    assert told["parameters"] == (taught.parameters, made.parameters)
    assert told["macs"][1] < told["macs"][0] / 2
    assert told["validation_loss"][1] < told["validation_loss"][0]
    stored = load_file(made.file)
    assert sum(tensor.numel() for tensor in stored.values()) == made.parameters
    assert overlap(made, taught, tiny_sequences) > overlap(
        untaught.artifact, taught, tiny_sequences
    )
    assert "alpha 0: trained on the labels alone" in untaught.notes[-1]


def overlap(artifact: Artifact, teacher: Artifact, data: Prepared) -> float:
    """Mean share of the teacher's ten best items in the artifact's, over test requests."""
    split = data.splits["test"]
    inputs = tensors(data.schema, split, np.arange(split.rows), artifact.inputs)
    with torch.inference_mode():
        mine, right = (load_module(each)(**inputs)[1][:, :10] for each in (artifact, teacher))
    return float((mine.unsqueeze(2) == right.unsqueeze(1)).any(dim=2).float().mean())


def test_alpha_0_is_plain_training_with_the_same_seed(
    tiny_sequences: Prepared, room: Callable[[str], Context], taught: Artifact
) -> None:
    context = room("out")
    made = distill(taught, context, epochs=1, alpha=0.0, student=SMALL).artifact
    spec = ModelSpec("sasrec", {**TEACHER.parameters, **SMALL})
    plain = build_module(spec, tiny_sequences.schema, folder=made.folder, seed=context.seed)
    fit(
        plain,
        tiny_sequences,
        made.inputs,
        replace(context.training, epochs=1),
        seed=context.seed,
        threads=1,
        progress=context.progress,
    )
    stored = load_file(made.file)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(stored[name], tensor), name


def test_a_users_own_model_istaught_by_its_scores(tiny_sequences: Prepared, tmp_path: Path) -> None:
    own = save_lists(tiny_sequences, TIED, tmp_path / "tied")
    context = lists_context(tiny_sequences, own, tmp_path / "out")
    start = save_lists(
        tiny_sequences, TIED, tmp_path / "start", change=lambda m: m.emb.weight.mul_(0.5)
    )
    made = distill(start, context, epochs=4, alpha=1.0, temperature=1.0).artifact
    assert overlap(made, own, tiny_sequences) > overlap(start, own, tiny_sequences)


@pytest.mark.parametrize(("asked", "items", "top"), [(None, 500, 100), (None, 60, 60), (7, 60, 7)])
def test_how_many_items_aretaught(asked: int | None, items: int, top: int) -> None:
    assert top_items(asked, items) == top


@pytest.mark.parametrize("asked", [1, 121])
def test_more_or_fewer_items_than_a_ranking_needs_are_refused(
    asked: int, room: Callable[[str], Context], taught: Artifact
) -> None:
    message = rf"distill: teacher_top {asked}: the catalogue has 120 items, expected 2 to 120"
    with pytest.raises(UnsupportedError, match=message):
        distill(taught, room("out"), epochs=0.1, teacher_top=asked)


def test_a_model_that_scores_no_items_is_refused(
    tiny_sequences: Prepared, taught: Artifact, tmp_path: Path
) -> None:
    teaching = Teaching(torch.nn.Identity(), 0.5, temperature=1.0, top=5)
    with pytest.raises(UnsupportedError, match="the teacher Identity has neither item vectors"):
        TaughtItems(
            student_of(tiny_sequences, tmp_path),
            tiny_sequences,
            taught.inputs,
            TRAINING,
            seed=1,
            teaching=teaching,
        )


def test_teacher_top_says_nothing_of_clicks(
    tiny_artifact: Artifact, make_context: Callable[..., Context]
) -> None:
    with pytest.raises(UnsupportedError, match="teacher_top 5 is for lists of next items"):
        distill(tiny_artifact, make_context(), teacher_top=5)


def test_hard_loss_of_scores_is_the_cross_entropy_of_real_items() -> None:
    scores, items = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([3])
    expected = F.cross_entropy(scores, torch.tensor([2]))
    found = TaughtItems._hard(None, None, scores, items, None)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(float(expected))
