"""Real pairs for the benchmarks: HumanEvalPack's correct and buggy solutions as our records.

    python tests/speed/pairs.py humanevalpack-python.jsonl.gz --out pairs.jsonl

The file is bigcode-project/octopack's (MIT). The response is the declaration with the canonical
solution, the variant is the declaration with the buggy one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fgit.common.errors import UserError
from fgit.common.files import read_records, write_jsonl

FIELDS = ["task_id", "instruction", "declaration", "canonical_solution", "buggy_solution"]


def humanevalpack(source: Path) -> list[dict[str, str]]:
    """Rows {id, instruction, response, variant} of a HumanEvalPack file, in its order."""
    frame, _ = read_records(source, FIELDS)
    return [
        {
            "id": row["task_id"],
            "instruction": row["instruction"],
            "response": row["declaration"] + row["canonical_solution"],
            "variant": row["declaration"] + row["buggy_solution"],
        }
        for row in frame.iter_rows(named=True)
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Turn a HumanEvalPack file into pairs: JSONL rows {id, instruction, response, "
        "variant}."
    )
    parser.add_argument("source", type=Path, metavar="FILE", help="humanevalpack-python.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .jsonl file")
    given = parser.parse_args(arguments)
    try:
        rows = humanevalpack(given.source)
        write_jsonl(given.out, rows)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: {len(rows)} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
