from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from harness.artifact import ModelSpec
from harness.errors import DataError, TrainingError
from harness.modules import build_module, load_module, model_inputs
from harness.objectives import Rows, Training, cross_entropy, predict, tensors
from harness.training import fit, start_at_mean

SPEC = ModelSpec("dlrm", {"dim": 8, "bottom": [16], "top": [32, 16]})


def fresh(tiny, seed=5):
    module = build_module(SPEC, tiny.schema, folder=None, seed=seed)
    return module, model_inputs(module, tiny.schema)


def train(module, data, inputs, training, *, loss=None, **changes):
    told = []
    if loss is not None:
        changes["objective"] = Rows(data, inputs, training, seed=5, loss=loss)
    given = {
        "seed": 5,
        "threads": 1,
        "progress": lambda label, share: told.append((label, share)),
        **changes,
    }
    return fit(module, data, inputs, training, **given), told


def validation_loss(module, data, inputs):
    split = data.splits["validation"]
    logits = torch.from_numpy(predict(module, data, split, inputs))
    return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(split.label)).item()


def changed_split(data, name, **changes):
    return replace(data, splits={**data.splits, name: replace(data.splits[name], **changes)})


def test_the_planted_signal_is_learned(tiny, tiny_artifact):
    split = tiny.splits["test"]
    logits = predict(load_module(tiny_artifact), tiny, split, tiny_artifact.inputs)
    assert roc_auc_score(split.label, logits) > 0.7


def test_same_seed_gives_the_same_weights(tiny, tiny_training):
    training = replace(tiny_training, epochs=1)
    states = []
    for seed in (5, 5, 6):
        module, inputs = fresh(tiny)
        train(module, tiny, inputs, training, seed=seed)
        states.append(module.state_dict())
    one, two, other = states
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("epochs", "steps"), [(0.001, 1), (0.5, 9), (1.0, 17), (1.5, 26)])
def test_steps_are_the_share_of_the_rows_rounded_up(tiny, epochs, steps):
    # 2152 training rows in batches of 128.
    module, inputs = fresh(tiny)
    history, told = train(module, tiny, inputs, Training(epochs=epochs, batch_size=128))
    assert history.steps == steps == len(told)
    assert told[-1][1] == 1.0
    assert told[-1][0].startswith(f"step {steps}/{steps}, loss ")
    assert not module.training
    assert history.stopped == "all steps done"


def test_no_epochs_change_nothing(tiny):
    module, inputs = fresh(tiny)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    history, told = train(module, tiny, inputs, Training(epochs=0))
    assert (history.steps, history.best, told) == (0, -1, [])
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_the_loss_gets_the_rows_of_its_labels_and_each_row_once_an_epoch(tiny):
    module, inputs = fresh(tiny)
    split, seen = tiny.splits["train"], []

    def loss(logits, labels, rows):
        np.testing.assert_array_equal(labels.numpy(), split.label[rows])
        assert logits.shape == labels.shape
        seen.append(rows)
        return cross_entropy(logits, labels, rows)

    train(module, tiny, inputs, Training(epochs=269 * 8 / 2152, batch_size=269), loss=loss)
    rows = np.concatenate(seen)
    assert len(rows) == 2152
    np.testing.assert_array_equal(np.sort(rows), np.arange(2152))


def test_training_stops_on_validation_and_keeps_the_best_weights(tiny):
    flipped = changed_split(tiny, "validation", label=1 - tiny.splits["validation"].label)
    module, inputs = fresh(tiny)
    training = Training(
        epochs=10, batch_size=128, learning_rate=0.02, evaluations=2, patience=2, warmup=0.0
    )
    history, _ = train(module, flipped, inputs, training)
    assert history.stopped == "validation no longer improves"
    assert history.steps < 170
    assert len(history.validation_loss) == history.best + 1 + 2
    kept = history.validation_loss[history.best]
    assert kept == min(history.validation_loss) < history.validation_loss[-1]
    assert validation_loss(module, flipped, inputs) == pytest.approx(kept, abs=1e-6)
    assert not module.training


def test_a_loss_that_is_not_finite_ends_with_its_step(tiny):
    module, inputs = fresh(tiny)

    def loss(logits, labels, rows):
        loss.step += 1
        return cross_entropy(logits, labels, rows) * (float("nan") if loss.step == 3 else 1.0)

    loss.step = 0
    message = (
        r"loss is nan at step 3 of 17; lower the learning rate \(0.001\) or look at the numeric"
    )
    with pytest.raises(TrainingError, match=message):
        train(module, tiny, inputs, Training(batch_size=128), loss=loss)


def test_a_learning_rate_far_too_high_ends_with_the_step(tiny):
    module, inputs = fresh(tiny)
    training = Training(epochs=2, batch_size=128, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"(at|after) step \d+"):
        train(module, tiny, inputs, training)


def test_a_learning_rate_too_high_still_keeps_the_best_moment(tiny):
    module, inputs = fresh(tiny)
    training = Training(epochs=2, batch_size=128, learning_rate=30.0, patience=100)
    history, _ = train(module, tiny, inputs, training)
    assert np.isfinite([*history.train_loss, *history.validation_loss]).all()
    assert history.validation_loss[history.best] == min(history.validation_loss)
    assert validation_loss(module, tiny, inputs) == pytest.approx(min(history.validation_loss))


def test_numbers_that_are_not_finite_end_training(tiny):
    values = tiny.splits["train"].arrays["candidate_values"].copy()
    values[100] = np.inf
    arrays = {**tiny.splits["train"].arrays, "candidate_values": values}
    module, inputs = fresh(tiny)
    with pytest.raises(TrainingError, match=r"loss is nan at step \d+ of 17"):
        train(module, changed_split(tiny, "train", arrays=arrays), inputs, Training(batch_size=128))


def test_a_validation_loss_of_nan_is_never_the_best(tiny):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, user):
            return user * 0.0 + self.bias + (0.0 if self.training else float("nan"))

    module = Broken()
    with pytest.raises(TrainingError, match=r"validation loss is nan after step \d+"):
        train(module, tiny, model_inputs(module, tiny.schema), Training(batch_size=128))


def test_a_constant_column_keeps_all_losses_finite(tiny):
    splits = {
        name: replace(
            split,
            arrays={**split.arrays, "user_values": np.zeros_like(split.arrays["user_values"])},
        )
        for name, split in tiny.splits.items()
    }
    module, inputs = fresh(tiny)
    history, _ = train(module, replace(tiny, splits=splits), inputs, Training(batch_size=128))
    assert np.isfinite([*history.train_loss, *history.validation_loss]).all()


def test_an_empty_validation_split_is_refused(tiny):
    split = tiny.splits["validation"]
    empty = changed_split(
        tiny,
        "validation",
        arrays={name: array[:0] for name, array in split.arrays.items()},
        label=split.label[:0],
        offsets=split.offsets[:1],
        row_id=split.row_id[:0],
    )
    module, inputs = fresh(tiny)
    with pytest.raises(DataError, match="the validation split is empty; move its boundary"):
        train(module, empty, inputs, Training(batch_size=128))


def test_predict_gives_the_asked_rows_in_order_whatever_the_batch(tiny, tiny_artifact):
    module, split = load_module(tiny_artifact).train(), tiny.splits["test"]
    whole = predict(module, tiny, split, tiny_artifact.inputs)
    assert module.training
    assert whole.shape == (split.rows,)
    assert whole.dtype == np.float32
    small = predict(module, tiny, split, tiny_artifact.inputs, batch_size=7)
    np.testing.assert_allclose(small, whole, atol=1e-6)
    rows = np.array([400, 3, 3, 120])
    part = predict(module, tiny, split, tiny_artifact.inputs, rows=rows)
    np.testing.assert_allclose(part, whole[rows], atol=1e-6)


def test_tensors_are_requests_of_one_candidate(tiny, tiny_artifact):
    made = tensors(tiny.schema, tiny.splits["test"], np.array([4, 9]), tiny_artifact.inputs)
    assert {name: tuple(tensor.shape) for name, tensor in made.items()} == {
        "user": (2, 1),
        "candidates": (2, 1, 2),
        "context": (2, 1),
        "user_values": (2, 1),
        "candidate_values": (2, 1, 1),
    }
    assert made["candidates"].dtype == torch.int64


def test_a_finite_but_hopeless_loss_is_refused(tiny, tiny_artifact, tiny_training):
    module = load_module(tiny_artifact)
    wild = replace(tiny_training, learning_rate=1e4, epochs=1)
    with pytest.raises(TrainingError, match=r"training diverged: the best validation loss is .*"):
        fit(
            module,
            tiny,
            tiny_artifact.inputs,
            wild,
            seed=1,
            threads=1,
            progress=lambda label, share: None,
        )


@pytest.mark.parametrize("name", ["mf", "two_embedding", "neumf", "fm", "deepfm", "dcn_v2", "mlp"])
def test_an_untrained_rating_model_starts_at_the_mean(tiny, name):
    from harness import registry

    train = replace(tiny.splits["train"], label=tiny.splits["train"].label + 3)
    splits = {**tiny.splits, "train": train}
    rated = replace(tiny, schema=replace(tiny.schema, task="rating"), splits=splits)
    module = registry.resolve("models", name)(tiny.schema)
    start_at_mean(module, rated)
    assert module.output_bias.tolist() == pytest.approx([float(train.label.mean())])
    clicks = registry.resolve("models", name)(tiny.schema)
    before = clicks.output_bias.clone()
    start_at_mean(clicks, tiny)
    assert torch.equal(clicks.output_bias, before)
