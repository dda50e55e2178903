"""An open exit that keeps the vectors of each set of texts, so that a set is encoded only once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from m2d_export.encoder import Encoder
from m2d_export.spec import TextSpec
from m2d_export.vectors import FloatArray

QUERY, DOCUMENT = "query", "document"  # roles, as in spec.ROLES


@dataclass(frozen=True)
class TextSet:
    """Texts that are encoded together; ``role`` says what they are in a search, and so which prompt they get."""

    texts: tuple[str, ...]
    role: str | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


def prompts(queries: TextSpec, documents: TextSpec) -> dict[str, str | None]:
    """The fields of a record with the names of the prompts that queries and documents get; None for an empty prompt."""
    found = {QUERY: queries, DOCUMENT: documents}
    names = {role: spec.role_prompt(role) for role, spec in found.items()}
    return {f"{role}_prompt": name if found[role].prompt(None, name) else None for role, name in names.items()}


class Encoded:
    """An open encoder, whose vectors (n, width) are not normalised; ``spec`` has the checkpoint's prompts."""

    def __init__(self, encoder: Encoder, spec: TextSpec) -> None:
        self._encoder = encoder
        self.spec = spec
        self.found: dict[tuple[tuple[str, ...], str | None], FloatArray] = {}  # by texts and name of the prompt

    def vectors(self, of: TextSet) -> FloatArray:
        """The vectors of a set, encoded at the first call."""
        key = (of.texts, self.spec.role_prompt(of.role))
        if key not in self.found:
            self.found[key] = self.encode(of.texts, of.role)
        return self.found[key]

    def encode(self, texts: Sequence[str], role: str | None) -> FloatArray:
        """The vectors of texts; they are not kept."""
        return self._encoder.encode(texts, prompt_name=self.spec.role_prompt(role))
