"""The benchmark of scoring runs, and gives what it says."""

import json

import pytest

from tests.speed.scoring import main


@pytest.mark.slow
def test_scoring(tmp_path):
    problems = [
        {
            "task_id": f"HumanEval/{n}",
            "prompt": "def f(x):\n",
            "entry_point": "f",
            "contract": "",
            "canonical_solution": "    return 2 * x\n",
            "base_input": [[1]],
            "plus_input": [[-1]],
            "atol": 0,
        }
        for n in range(2)
    ]
    texts = ["def f(x):\n    return 2 * abs(x)\n", "def f(x):\n    return x + x\n"]
    samples = [{"task_id": f"HumanEval/{n}", "solution": text} for n, text in enumerate(texts)]
    for name, rows in {"p.jsonl": problems, "s.jsonl": samples}.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["--benchmark", "humaneval", "--problems", str(tmp_path / "p.jsonl")]
    command += ["--samples", str(tmp_path / "s.jsonl"), "--json", str(tmp_path / "out.json")]
    assert main([*command, "--turns", "1", "--workers", "1"]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["pass@1"] == {"evalplus": [1.0, 0.5], "fgit": [1.0, 0.5]}
    assert result["differing"] == [] and result["problems"] == 2
    seconds = result["seconds"]
    assert result["fgit_over_evalplus"] == seconds["fgit"][0] / seconds["evalplus"][0]
