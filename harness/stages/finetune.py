"""Fine-tuning: a compressed model is trained on with the baseline's loss, as after pruning."""

from harness.artifact import Artifact, Effect
from harness.modules import load_module, save_module
from harness.objectives import UNITS
from harness.params import Count, Positive
from harness.stages.base import Context, Outcome, stage
from harness.stages.retraining import require_moved, settings, snapshot, validation_loss
from harness.training import fit


@stage(accepts="torch", produces="torch", technique="open_like")
def finetune(
    artifact: Artifact,
    context: Context,
    *,
    epochs: Positive = 0.5,
    learning_rate: Positive | None = None,
    batch_size: Count | None = None,
) -> Outcome:
    """Train all weights for some ``epochs`` on the labels and keep the best by validation.

    Settings that aren't given are the baseline's. Raises ``EffectError`` when no weight moves and
    ``TrainingError`` when the loss is no longer finite.
    """
    training = settings(context, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    module = load_module(artifact)
    start = snapshot(module)
    before = validation_loss(module, context, artifact.inputs, training)
    history = fit(
        module,
        context.data,
        artifact.inputs,
        training,
        seed=context.seed,
        threads=context.threads,
        progress=context.progress,
    )
    require_moved(start, module, stage="finetune", learning_rate=training.learning_rate)
    after = validation_loss(module, context, artifact.inputs, training)
    tuned = save_module(module, artifact, context.folder)
    notes = [f"{history.steps} steps, {history.stopped}"]
    if after > before:
        notes.append(f"validation loss rose from {before:.5f} to {after:.5f}")
    return Outcome(
        tuned,
        (Effect("validation_loss", before, after, unit=UNITS[context.data.schema.task]),),
        tuple(notes),
    )
