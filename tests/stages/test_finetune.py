import numpy as np
import pytest

from harness import registry
from harness.errors import EffectError, TrainingError
from harness.modules import load_module
from harness.objectives import predict
from harness.stages.finetune import finetune
from harness.stages.prune_channels import prune_channels


def scores(artifact, data):
    return predict(load_module(artifact), data, data.splits["test"], artifact.inputs)


def test_a_pruned_model_recovers_and_the_loss_is_told(
    tiny_artifact, make_context, tiny, file_hashes, score_alone
):
    pruned = prune_channels(tiny_artifact, make_context("pruned"), ratio=0.75).artifact
    before = file_hashes(pruned.folder)
    outcome = finetune(pruned, make_context("tuned"), epochs=2)
    (effect,) = outcome.effects
    assert (effect.name, effect.unit) == ("validation_loss", "nats")
    assert effect.after < effect.before - 0.01
    assert outcome.artifact.widths == pruned.widths
    # 2 epochs of 2152 rows in batches of 128.
    assert outcome.notes[0] == "34 steps, all steps done"
    assert file_hashes(pruned.folder) == before
    np.testing.assert_allclose(
        score_alone(outcome.artifact), scores(outcome.artifact, tiny), atol=1e-6
    )


def test_same_seed_same_weights_other_seed_others(tiny_artifact, make_context, file_hashes):
    one, two, other = (
        finetune(tiny_artifact, make_context(name, seed=seed), epochs=0.5).artifact
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert file_hashes(one.folder) == file_hashes(two.folder)
    assert file_hashes(one.folder) != file_hashes(other.folder)


def test_weights_that_do_not_move_are_an_error(tiny_artifact, make_context):
    message = r"finetune had no effect: every weight is as before; .*\(1e-30\)"
    with pytest.raises(EffectError, match=message):
        finetune(tiny_artifact, make_context(), learning_rate=1e-30)


def test_a_loss_that_rises_is_told(tiny_artifact, make_context):
    outcome = finetune(tiny_artifact, make_context(), epochs=0.1, learning_rate=0.1)
    assert outcome.notes[-1].startswith("validation loss rose from ")


def test_a_loss_that_is_not_finite_ends_with_the_step(tiny_artifact, make_context):
    with pytest.raises(TrainingError, match=r"at step \d+ of 85|after step \d+"):
        finetune(tiny_artifact, make_context(), epochs=5, learning_rate=1e30)


@pytest.mark.parametrize("values", [{"epochs": 0}, {"epochs": "1"}, {"learning_rate": -1e-3}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(registry.ValidationError) as caught:
        registry.bind("stages", "finetune", values)
    assert caught.value.errors()[0]["loc"] == tuple(values)
