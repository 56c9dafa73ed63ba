"""Fixtures of the audit's tests: variants that were tested, and sheets that were compared."""

import polars as pl
import pytest

from fgit.audit.kappa import kappa
from fgit.audit.variants import AUDIT_COLUMNS, variants
from fgit.common import files
from tests.audited import PROBLEMS, SCORING, SELECTION, answers, written


@pytest.fixture
def audited(tmp_path):
    """Audit variants of PROBLEMS; give the rows by (id, k), and audit.json."""

    def run(codes, problems=PROBLEMS, kind="humaneval"):
        files.write_jsonl(tmp_path / "problems.jsonl", problems)
        answers(codes).write_parquet(tmp_path / "generated.parquet")
        out = tmp_path / "out"
        variants(
            kind,
            tmp_path / "problems.jsonl",
            tmp_path / "generated.parquet",
            out,
            SCORING,
            SELECTION,
            threads=2,
        )
        frame = pl.read_parquet(out / "variants.parquet")
        assert dict(frame.schema) == AUDIT_COLUMNS
        assert sorted(file.name for file in out.iterdir()) == ["audit.json", "variants.parquet"]
        rows = {(row["id"], row["k"]): row for row in frame.to_dicts()}
        return rows, files.read_json(out / "audit.json")

    return run


@pytest.fixture
def agree(tmp_path, capsys):
    def run(first, second):
        kappa(
            written(tmp_path / "1.csv", first),
            written(tmp_path / "2.csv", second),
            tmp_path / "kappa.json",
        )
        return files.read_json(tmp_path / "kappa.json"), capsys.readouterr().out

    return run
