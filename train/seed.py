"""The seed recipe: the training of the model card ``tomaarsen/distilbert-base-uncased-sts-2d-matryoshka``.

All of it is sentence-transformers' own: trainer, losses, evaluator.
"""

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

from m2d_export.bench.sts import Pairs
from m2d_export.checkpoints.load import quietly
from m2d_export.errors import M2DError, TrainingError, first_line
from train.evaluate import Judge
from train.log import Entry, Trained, Watcher, check_progress
from train.memory import SCORING, enough_memory, stepping
from train.recipes import Recipe, SeedRecipe
from train.work import Job, Work

# All four, or the evaluator gives two metrics instead of ten.
SIMILARITIES: list[Any] = ["cosine", "euclidean", "manhattan", "dot"]
UNIFORM = (
    "prior layers weigh alike (since 5.7); the card's release weighed layer k by 1/k, as --weighting seed-era does"
)
DIFFERENCES = (
    "a prior layer is drawn from the embeddings and layers 1 to depth - 1 (since sentence-transformers 5.2); the "
    "card's release drew from layers 1 to depth - 1",
    "the last layer gets no gradient from the KL term (since 5.7); in the card's release it got some",
    "attention is computed step by step (eager), as for the export, where the library's own default is sdpa",
    "weights are trained in float32 whatever the checkpoint stores; fp16 and bf16 are autocast",
)


def differences(recipe: Recipe) -> list[str]:
    """What is not as it was when the card was made; the grid recipe is compared with nothing."""
    if not isinstance(recipe, SeedRecipe):
        return []
    return [*DIFFERENCES, *([UNIFORM] if recipe.weighting == "uniform" else [])]


def seed_loss(model: SentenceTransformer, recipe: SeedRecipe) -> losses.Matryoshka2dLoss:
    """Matryoshka2dLoss around CoSENTLoss with the card's settings: one prior layer and one dim a step."""
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
    """Weight of hidden state ``state``: 1/k for layer k, and none for the embeddings, which were not drawn then."""
    return 1 / state if state else 0.0


def train_seed(job: Job, work: Work, asked: Event, watcher: Watcher) -> Trained | None:
    """Train by ``SeedRecipe`` to the end, or until ``asked`` to stop, which returns None.

    The trainer's own checkpoints are kept in ``work`` at every evaluation and before stopping, and the last one is
    where it starts. Raises TrainingError where the loss or the scores are lost; the last checkpoint stays.
    """
    recipe, train, model = job.recipe, job.data.train, job.checkpoint.original
    if not isinstance(recipe, SeedRecipe):
        raise TypeError(f"{recipe} is no SeedRecipe")
    left, right = train.sides()
    rows = {"sentence1": left, "sentence2": right, "score": train.scores.tolist()}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work.folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        prompts=job.checkpoint.text.prompt() or None,
        warmup_steps=recipe.warmup_ratio,  # a share of all steps where it is below 1
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
    drafted = model.model_card_data  # the card is our own, and bars of what theirs looks for would fall into ours
    drafted.generate_widget_examples, drafted.widget = False, [{}]
    watch = _Watch(job, work, asked, watcher)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        loss=seed_loss(model, recipe),
        evaluator=_evaluator(job.data.dev),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    start = _last_checkpoint(work.folder)
    try:
        with quietly(), enough_memory(job.device, stepping(recipe.batch_size)):
            trainer.train(resume_from_checkpoint=start)
    except M2DError:
        raise
    except Exception as error:  # of whichever library read the file that is broken
        if start is None or watch.going:
            raise
        raise TrainingError(
            f"{start} cannot be gone on from ({first_line(error)}): remove {work.folder} to start over"
        ) from error
    return None if watch.stopped else Trained({}, tuple(watch.log))


def _last_checkpoint(folder: Path) -> str | None:
    """The trainer's last checkpoint that is whole: its own state is what it writes last."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _evaluator(pairs: Pairs) -> EmbeddingSimilarityEvaluator:
    return EmbeddingSimilarityEvaluator(
        *pairs.sides(), pairs.scores.tolist(), name="dev", similarity_fn_names=SIMILARITIES, write_csv=False
    )


class _Watch(TrainerCallback):
    """Scores the grid after each evaluation, stops the trainer when asked, or when the training is lost."""

    def __init__(self, job: Job, work: Work, asked: Event, watcher: Watcher) -> None:
        self.work, self.asked, self.watcher = work, asked, watcher
        bare = replace(job.checkpoint, heads={})  # this recipe trains none
        self.judge = Judge(bare, job.data.dev, job.layers, job.recipe.dims)
        self.log: list[Entry] = []
        self.going, self.stopped, self.loss = False, False, 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.log = self.work.log(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.going = True
        self.watcher.step(state.global_step, state.max_steps, self.loss)
        if self.asked.is_set() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True
        # The loss is looked at before anything is kept, at the last step too.
        control.should_log = control.should_log or control.should_save

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.loss = state.log_history[-1].get("loss", self.loss)
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"the loss is {self.loss} by step {state.global_step}: a lower --learning-rate may help. The last "
                f"checkpoint, if there was one, is in {self.work.folder}"
            )

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        with enough_memory(args.device.type, SCORING):
            self.log.append(Entry(state.global_step, self.loss, self.judge.grid()))
        check_progress(self.log)
        self.work.save_log(self.log)
        self.watcher.evaluated(self.log[-1])
