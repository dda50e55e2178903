"""Batches for every runtime."""

from m2d_export.spec import TextSpec
from m2d_export.text.batches import pad
from m2d_export.text.tokenizer import TokenIds

SPEC = TextSpec(max_tokens=48, pad_id=1, vocabulary=60)
ROWS = [TokenIds([3, 40, 41, 4]), TokenIds([3, 42, 4]), TokenIds([3, 43, 44, 45, 46, 4])]
BATCH = pad(ROWS, SPEC, range(3))
