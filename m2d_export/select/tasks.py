"""What a cell can be judged by: one row for each task, and the storages whose scores are measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from m2d_export.bench.storage import BITS, Storage


class Task(StrEnum):
    """The measurement that says how good a cell is."""

    STS = "sts"
    RETRIEVAL = "retrieval"
    AGREEMENT = "agreement"
    INDEX_RETRIEVAL = "index-retrieval"
    INDEX_AGREEMENT = "index-agreement"

    @property
    def in_index(self) -> bool:
        """Whether a cell is judged by its queries, in an index that another cell made."""
        return self in (Task.INDEX_RETRIEVAL, Task.INDEX_AGREEMENT)


@dataclass(frozen=True)
class TaskSpec:
    """How a task judges a candidate.

    ``quality`` and ``retention`` name fields of ``Candidate``. bench measures them with ``option`` and ``value``, such
    as ``--sts FILE``. If there are results of several sets, the same option of select names one; ``part`` is the field
    of ``View`` that holds the name.
    """

    quality: str
    retention: str
    option: str
    value: str
    part: str

    @property
    def what(self) -> str:
        """The name of the quality in messages."""
        return self.quality.removeprefix("index_")

    @property
    def measure(self) -> str:
        """What to do if there are no such results."""
        return f"run m2d-export bench with {self.option} {self.value}"


TASKS: Mapping[Task, TaskSpec] = {
    Task.STS: TaskSpec("score", "retention", "--sts", "FILE", "sts"),
    Task.RETRIEVAL: TaskSpec("ndcg", "ndcg_retention", "--retrieval", "FOLDER", "collection"),
    Task.AGREEMENT: TaskSpec("agreement", "agreement_retention", "--texts", "FILE", "texts"),
    Task.INDEX_RETRIEVAL: TaskSpec("index_ndcg", "index_share", "--retrieval", "FOLDER", "collection"),
    Task.INDEX_AGREEMENT: TaskSpec("index_overlap", "index_overlap_share", "--texts", "FILE", "texts"),
}
# The storages by the bytes of one number. The score of float32 vectors is the score of the cell itself.
BYTES: Mapping[str, float] = {str(storage): BITS[storage] / 8 for storage in Storage}
STORED: Mapping[float, str] = {size: name for name, size in BYTES.items() if name != Storage.FP32}
