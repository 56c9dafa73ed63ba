"""``fgit explain``: the chain behind a run's numbers, told."""

import json
import shutil

import pytest

from fgit import cli
from fgit.common.provenance import provenance_path
from fgit.lineage import Lineage
from tests.chained_stages import NAMES, RUN


@pytest.fixture
def told(workflow, capsys):
    def call(*words):
        capsys.readouterr()
        code = cli.main(["explain", *words, "--results", str(workflow.results)])
        return code, *capsys.readouterr()

    return call


def test_the_tree(workflow, told):
    code, text, error = told(RUN)
    assert (code, error) == (0, "")
    lines = text.splitlines()
    assert lines[0] == RUN
    assert f"mbpp  provenance {Lineage(workflow.results).identity(RUN, 'mbpp')}" in lines
    stages = [line.split(" · ")[0].strip("│ ") for line in lines if " · 2020" in line]
    assert stages == [
        *("score", "evaluate", "train", "annotate", "select", "decontaminate"),
        *("generate", "score"),
    ]
    assert f"│  │     └─ pairs: {NAMES[2]} " in text
    assert text.count("decontaminate: see above") == 1
    assert "│ flags: split train, limit 80" in text
    assert "│ packages: python 3.10.1, numpy 1" in text  # those that differ, of this step alone
    assert text.count("packages: ") == 3  # what the others share, and the two scores
    assert "│ hub: org/base revision main, commit abc" in text
    assert "null" not in text


def test_several_benchmarks_share_what_they_rest_on(workflow, told):
    workflow.evaluate(benchmark="mbpp-2")
    workflow.score(benchmark="mbpp-2")
    code, text, _ = told(RUN)
    assert (code, text.count("train · "), text.count("train: see above")) == (0, 1, 1)
    code, text, _ = told(RUN, "--benchmark", "mbpp-2")
    assert (code, "mbpp-2  provenance" in text, "mbpp  provenance" in text) == (0, True, False)


def test_as_json(workflow, told):
    code, text, _ = told(RUN, "--json")
    found = json.loads(text)
    assert (code, found["run"], found["changed"]) == (0, RUN, [])
    steps = found["benchmarks"]["mbpp"]["steps"]
    assert [step["name"] for step in steps] == [*NAMES[:6], "score/canonical/mbpp", NAMES[6]]
    assert found["benchmarks"]["mbpp"]["provenance"]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_it_ends_with_1_if_something_changed(workflow, told, words):
    workflow.file(NAMES[3], "mended by hand")
    code, text, error = told(RUN, *words)
    assert code == 1
    assert "changed since" in text
    assert error.startswith(f"fgit explain: error: {NAMES[3]}: changed since ")


def test_weights_that_are_gone_are_no_error(workflow, told):
    shutil.rmtree(workflow.results / f"train/{RUN}/model")
    code, text, _ = told(RUN)
    assert (code, text.count("(gone)")) == (0, 2)


def test_a_step_without_provenance_is_said(workflow, told):
    provenance_path(workflow.results / NAMES[2]).unlink()
    code, text, _ = told(RUN)
    assert code == 0
    assert "select: no provenance; nothing is known of how this was made" in text


def test_a_run_that_is_not_evaluated_yet(workflow, told):
    workflow.train("tiny/data/sft/seed-0")
    code, text, _ = told("tiny/data/sft/seed-0")
    assert code == 0 and "(not evaluated yet)\ntrain · " in text


def test_unknown_runs_and_benchmarks(workflow, told):
    code, text, error = told("tiny/data/fgit")
    assert (code, text) == (1, "")
    assert error == (
        f"fgit explain: error: {workflow.results}: no run 'tiny/data/fgit' in it; it has: {RUN}\n"
    )
    code, _, error = told(RUN, "--benchmark", "humaneval")
    assert (code, error.rstrip()) == (
        1,
        f"fgit explain: error: {workflow.results}: {RUN} was not evaluated on 'humaneval', but on: "
        "mbpp",
    )
