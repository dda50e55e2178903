"""The seed recipe: the training of the model card ``recipes.CARD``, with sentence-transformers' trainer and losses."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from m2d_export.bench.similarity import SIMILARITIES
from m2d_export.bench.sts import Pairs
from m2d_export.checkpoints.load import quietly
from m2d_export.errors import M2DError, TrainingError, first_line
from m2d_export.host.files import output_file, sha256_of

from .evaluate import Evaluator
from .job import Job
from .log import Entry, Trained, Watcher, check_divergence, check_finite, undefined_loss
from .memory import IN_EVALUATION, explain_out_of_memory, in_a_step
from .recipes import Recipe, SeedRecipe
from .work import WorkFolder

LOG, SUMS = "m2d-log.json", "m2d-sha256.json"  # in a checkpoint of the trainer

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
        warmup_steps=recipe.warmup_ratio,  # a number below 1 is a share of all steps
        seed=recipe.seed,
        use_cpu=job.device == "cpu",
        fp16=job.precision == "fp16",
        bf16=job.precision == "bf16",
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        save_strategy="steps",
        save_steps=recipe.eval_steps,
        save_total_limit=2,  # the earlier one stays until the newest one is complete
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
    start = _last_checkpoint(work)
    if start is not None:
        watch.log = [Entry.from_json(entry) for entry in json.loads((start / LOG).read_text(encoding="utf-8"))]
    try:
        with quietly(), explain_out_of_memory(job.device, in_a_step(recipe.batch_size)):
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except M2DError:
        raise
    except Exception as error:  # any library that reads the checkpoint may raise
        if start is None or watch.started:
            raise
        raise TrainingError(
            f"cannot resume from {start} ({first_line(error)}): remove {work.path} and start again"
        ) from error
    return None if watch.stopped else Trained(watch.bare, tuple(watch.log))


def _last_checkpoint(work: WorkFolder) -> Path | None:
    """The last complete checkpoint of the trainer, None if there is none; incomplete ones are removed.

    Raises TrainingError if a file of it was changed since it was saved.
    """
    found = sorted(work.path.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in (path for path in found if not (path / SUMS).exists()):
        shutil.rmtree(path)
    if not (complete := [path for path in found if path.exists()]):
        return None
    try:
        damaged = json.loads((complete[-1] / SUMS).read_text(encoding="utf-8")) != _sums(complete[-1])
    except ValueError:
        damaged = True
    if damaged:
        raise TrainingError(f"{complete[-1]} was changed since it was saved: remove {work.path} and start again")
    return complete[-1]


def _sums(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a checkpoint of the trainer."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SUMS)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _evaluator(pairs: Pairs) -> EmbeddingSimilarityEvaluator:
    return EmbeddingSimilarityEvaluator(
        *pairs.sides(), pairs.scores.tolist(), name="dev", similarity_fn_names=SIMILARITY_NAMES, write_csv=False
    )


class _Watch(TrainerCallback):
    """Scores the grid after each evaluation, and stops the trainer on a signal, a bad loss or divergence."""

    def __init__(self, job: Job, work: WorkFolder, stop: Event, watcher: Watcher) -> None:
        self.work, self.stop, self.watcher = work, stop, watcher
        self.bare = replace(job.checkpoint, heads={}, table=None)  # this recipe trains neither
        self.evaluator = Evaluator(self.bare, job.data.dev, job.layers, job.recipe.dims)
        self.log: list[Entry] = []
        self.started, self.stopped, self.loss = False, False, 0.0

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
        self.watcher.evaluated(self.log[-1])

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the checkpoint that the trainer has written: add the log, and the checksums last."""
        check_finite(kwargs["model"].state_dict())
        check_finite(kwargs["optimizer"].state_dict())
        folder = self.work.path / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        (folder / LOG).write_text(json.dumps([entry.to_json() for entry in self.log]), encoding="utf-8")
        sums = json.dumps(_sums(folder)).encode()
        with output_file(folder / SUMS) as file:
            file.write(sums)
