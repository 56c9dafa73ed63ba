"""What an engine is asked, and what it answers."""

import dataclasses

ASKING = "Asking the teacher"
PROMPT_TOO_LONG = "prompt_too_long"


@dataclasses.dataclass(frozen=True)
class Request:
    """The k-th answer to ``prompt``, one user message, is wanted for sample ``id``."""

    id: str
    k: int
    seed: int
    prompt: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to ``requests[index]``; ``tokens`` (generated) is None where nobody counted.

    ``refused`` says why the teacher was not asked, if it was not. ``cost`` is what the answer cost,
    in the currency of the prices; 0 where the settings have none.
    """

    index: int
    text: str
    tokens: int | None
    refused: str | None = None
    cost: float = 0.0


@dataclasses.dataclass(frozen=True)
class Attempt:
    """An attempt to have ``requests[index]`` answered that failed, and what it may have cost."""

    index: int
    cost: float
