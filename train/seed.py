"""The seed recipe: the training of the model card ``recipes.CARD``, with sentence-transformers' trainer and losses."""

import math
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from m2d_export.bench.similarity import SIMILARITIES
from m2d_export.bench.sts import Pairs
from m2d_export.checkpoints.load import quietly
from m2d_export.errors import M2DError, TrainingError, first_line

from .evaluate import Evaluator
from .log import Entry, Trained, Watcher, check_divergence, undefined_loss
from .memory import IN_EVALUATION, explain_out_of_memory, in_a_step
from .recipes import Recipe, SeedRecipe
from .work import Job, WorkFolder

SIMILARITY_NAMES: list[Any] = list(SIMILARITIES)  # without all four, the evaluator returns two metrics, not ten
UNIFORM = (
    "all layers below the last have the same weight (since sentence-transformers 5.7); in the card's release layer k "
    "had the weight 1/k, as with --weighting seed-era"
)
DIFFERENCES = (
    "the lower layer of a step is drawn from the embeddings and layers 1 to depth - 1 (since sentence-transformers "
    "5.2); in the card's release from layers 1 to depth - 1",
    "the last layer gets no gradient from the KL term (since sentence-transformers 5.7); in the card's release it got "
    "one",
    "attention is eager, as in the export; the library's default is sdpa",
    "weights are trained in float32, also if the checkpoint stores them in half; fp16 and bf16 use autocast",
)


def differences(recipe: Recipe) -> list[str]:
    """The differences to the training of the card; none for the grid recipe, which follows no card."""
    if not isinstance(recipe, SeedRecipe):
        return []
    return [*DIFFERENCES, *([UNIFORM] if recipe.weighting == "uniform" else [])]


def seed_loss(model: SentenceTransformer, recipe: SeedRecipe) -> losses.Matryoshka2dLoss:
    """Matryoshka2dLoss around CoSENTLoss as on the card: a step trains the last layer, one lower layer and one dim."""
    return losses.Matryoshka2dLoss(
        model,
        losses.CoSENTLoss(model),
        matryoshka_dims=list(recipe.dims),
        matryoshka_weights=[1] * len(recipe.dims),
        n_layers_per_step=1,
        n_dims_per_step=1,
        last_layer_weight=1.0,
        prior_layers_weight=1.0,
        kl_div_weight=1.0,
        kl_temperature=0.3,
        layer_weighting=_one_over_layer if recipe.weighting == "seed-era" else "uniform",
    )


def _one_over_layer(state: int) -> float:
    """The weight of a hidden state: 1/k for layer k; 0 for the embeddings, which the card's release did not draw."""
    return 1 / state if state else 0.0


def train_seed(job: Job, work: WorkFolder, stop: Event, watcher: Watcher) -> Trained | None:
    """Train with ``SeedRecipe``; returns None if ``stop`` was set before the end.

    The training starts from the trainer's last checkpoint in ``work``, if there is one. The trainer writes one at every
    evaluation and before it stops. Raises TrainingError if the loss is undefined, the training diverges, memory runs
    out or the checkpoint is damaged; the last checkpoint stays.
    """
    recipe, train, model = job.recipe, job.data.train, job.checkpoint.original
    if not isinstance(recipe, SeedRecipe):
        raise TypeError(f"expected a SeedRecipe, got {recipe}")
    left, right = train.sides()
    rows = {"sentence1": left, "sentence2": right, "score": train.scores.tolist()}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work.path),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        prompts=job.checkpoint.text.prompt() or None,
        warmup_steps=recipe.warmup_ratio,  # below 1 it is a share of all steps
        seed=recipe.seed,
        use_cpu=job.device == "cpu",
        fp16=job.precision == "fp16",
        bf16=job.precision == "bf16",
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        save_strategy="steps",
        save_steps=recipe.eval_steps,
        save_total_limit=1,
        logging_steps=recipe.eval_steps,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    # We write the card ourselves. The library's examples for a card would print progress bars into ours.
    model.model_card_data.generate_widget_examples, model.model_card_data.widget = False, [{}]
    watch = _Watch(job, work, stop, watcher)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        loss=seed_loss(model, recipe),
        evaluator=_evaluator(job.data.dev),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    start = _last_checkpoint(work.path)
    try:
        with quietly(), explain_out_of_memory(job.device, in_a_step(recipe.batch_size)):
            trainer.train(resume_from_checkpoint=start)
    except M2DError:
        raise
    except Exception as error:  # any library that reads the checkpoint may raise
        if start is None or watch.started:
            raise
        raise TrainingError(
            f"cannot resume from {start} ({first_line(error)}): remove {work.path} and start again"
        ) from error
    return None if watch.stopped else Trained({}, tuple(watch.log))


def _last_checkpoint(folder: Path) -> str | None:
    """The trainer's last complete checkpoint: one that has a state file, which the trainer writes last."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _evaluator(pairs: Pairs) -> EmbeddingSimilarityEvaluator:
    return EmbeddingSimilarityEvaluator(
        *pairs.sides(), pairs.scores.tolist(), name="dev", similarity_fn_names=SIMILARITY_NAMES, write_csv=False
    )


class _Watch(TrainerCallback):
    """Scores the grid after each evaluation, and stops the trainer on a signal, a bad loss or divergence."""

    def __init__(self, job: Job, work: WorkFolder, stop: Event, watcher: Watcher) -> None:
        self.work, self.stop, self.watcher = work, stop, watcher
        bare = replace(job.checkpoint, heads={})  # this recipe trains no heads
        self.evaluator = Evaluator(bare, job.data.dev, job.layers, job.recipe.dims)
        self.log: list[Entry] = []
        self.started, self.stopped, self.loss = False, False, 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.log = self.work.log(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.started = True
        self.watcher.step(state.global_step, state.max_steps, self.loss)
        if self.stop.is_set() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True
        # Logging checks the loss; it must come before anything is saved.
        control.should_log = control.should_log or control.should_save

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.loss = state.log_history[-1].get("loss", self.loss)
        if not math.isfinite(self.loss):
            error = undefined_loss(self.loss, state.global_step)
            raise TrainingError(f"{error}. If a checkpoint was saved before, it is in {self.work.path}")

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        with explain_out_of_memory(args.device.type, IN_EVALUATION):
            self.log.append(Entry(state.global_step, self.loss, self.evaluator.grid()))
        check_divergence(self.log)
        self.work.save_log(self.log)
        self.watcher.evaluated(self.log[-1])
