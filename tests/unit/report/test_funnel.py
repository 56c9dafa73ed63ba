"""The funnel: that it adds up, says where it does not, and is drawn as far as the stages came."""

import csv
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgit.cli import main
from fgit.common.errors import UserError
from fgit.common.files import write_json
from fgit.masks import TokenMasks
from fgit.report.funnel import (
    RUN_HEADINGS,
    FunnelLine,
    dataset_lines,
    funnel,
    funnel_csv,
    funnel_markdown,
    run_lines,
    source_lines,
    training_cells,
)
from fgit.report.stage import report
from fgit.stage_reports import (
    AnnotateReport,
    DecontaminateReport,
    RunSettings,
    SelectReport,
    TrainReport,
)
from fgit.train.examples import build
from tests.results_folder import Folder, make_config

COUNTS = st.integers(0, 20)
FGIT = RunSettings(objective="fgit", weight=1.0, alpha=2.0)
KINDS = (DecontaminateReport, SelectReport, AnnotateReport, TrainReport)
REASONS = st.dictionaries(st.sampled_from(["a", "b", "c"]), COUNTS, max_size=3)


def report_of(kind, **values):
    """A report that has these values alone."""
    report = kind.model_construct(**values)
    report._where = Path(kind.stage, "report.json")
    return report


@st.composite
def stages(draw):
    """Reports of decontaminate, select and annotate, and a training's metrics, that agree."""
    bad, removed, lost = draw(REASONS), draw(REASONS), draw(REASONS)
    over, held, long, unpaired, cut, same = (draw(COUNTS) for _ in range(6))
    # A sample without a variant is held out, has a prompt that is too long, or is trained on.
    without = sum(lost.values())
    held_without = draw(st.integers(0, min(held, without)))
    long_without = draw(st.integers(0, min(long, without - held_without)))
    no_variant = without - held_without - long_without
    counts = {"no_variant": no_variant, "prompt_too_long": long, "marks_cut": cut}
    counts |= {"paired": unpaired, "samples": no_variant + long + cut + same + unpaired}
    records = counts["samples"] + held
    kept = records + over
    return {
        "decontaminate": {
            "rows": kept + sum(removed.values()) + sum(bad.values()),
            "bad_rows_by_reason": bad,
            "removed_by_benchmark": removed,
            "over_limit": over,
            "kept": records,
        },
        "select": {"samples": records, "lost": lost, "with_variant": records - without},
        "annotate": {"samples": records, "pairs": records - without},
        "train": {
            "counts": counts,
            "held_out_counts": {"samples": held, "no_variant": held_without} if held else {},
        },
    }


def lines_of(reports, objective="fgit", weight=2.0):
    clean, selected, annotated, metrics = (
        report_of(kind, **values) for kind, values in zip(KINDS, reports.values(), strict=True)
    )
    parameters = RunSettings(objective=objective, weight=weight, alpha=2.0)
    return [
        *dataset_lines("d", clean),
        *source_lines("d", "generate", clean, selected, annotated),
        *run_lines("d", "generate", "m/d/x/seed-0", selected, metrics, parameters),
    ]


OBJECTIVES = [("fgit", 1.0), ("fixed", 1.0), ("fixed", 3.0), ("dpo", 1.0)]


@settings(max_examples=60)
@given(stages(), st.sampled_from(OBJECTIVES))
def test_every_line_follows_from_the_one_before(reports, objective):
    lines = lines_of(reports, *objective)
    for before, line in itertools.pairwise(lines):
        assert line.left >= 0
        if line.step == before.step:
            assert line.left == before.left - (line.lost or 0)
    # Each step begins with what the one before has left; a training with the records.
    ends = {line.reason: line.left for line in lines if line.lost is None}
    assert ends["records"] == reports["decontaminate"]["kept"] == ends["samples"]
    assert ends["pairs"] == reports["annotate"]["pairs"]
    rows = reports["decontaminate"]["rows"]
    lost = sum(
        line.lost for line in lines if line.lost and line.step in ("decontaminate", "select")
    )
    assert lines[0].left == rows == lost + ends["pairs"]


@settings(max_examples=60)
@given(stages(), st.sampled_from(OBJECTIVES))
def test_a_training_accounts_for_all_records(reports, objective):
    lines = [line for line in lines_of(reports, *objective) if line.run]
    row = dict(zip(RUN_HEADINGS, training_cells(lines), strict=True))
    numbers = {name: 0 if cell == "–" else int(cell) for name, cell in list(row.items())[2:]}
    left_out = numbers["no variant"] if objective[0] == "dpo" else 0
    parts = ("held out", "prompt too long", "with weight 1", "as pairs")
    assert numbers["samples"] == sum(numbers[part] for part in parts) + left_out
    counts = reports["train"]["counts"]
    if objective[0] == "fgit" or objective == ("fixed", 3.0):
        reasons = ("no variant", "marks cut off", "no difference")
        assert numbers["with weight 1"] == sum(numbers[reason] for reason in reasons)
        assert numbers["as pairs"] == counts["paired"]
    elif objective[0] == "dpo":
        trained = counts["samples"] - counts["prompt_too_long"]
        assert numbers["as pairs"] == trained - counts["no_variant"]
    else:
        assert numbers["as pairs"] == 0


def numbers_in(values, prefix=()):
    """The places of all counts in nested objects."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from numbers_in(value, (*prefix, key))
        else:
            yield (*prefix, key)


@settings(max_examples=60)
@given(st.data(), stages(), st.sampled_from([-1, 1]))
def test_any_count_that_is_wrong_by_one_is_found(data, reports, by):
    # Of the pairs of a training nothing else tells how many there must be.
    free = {"paired", "marks_cut", "prompt_too_long"}
    if reports["train"]["counts"]["prompt_too_long"]:
        free.add("no_variant")
    places = [place for place in numbers_in(reports) if place[-1] not in free]
    place = data.draw(st.sampled_from(places))
    *parents, last = place
    holder = reports
    for key in parents:
        holder = holder[key]
    if holder[last] + by < 0:
        by = 1
    holder[last] += by
    with pytest.raises(UserError, match=r"report\.json.*run the \w+ stage again"):
        lines_of(reports)


def test_what_does_not_add_up_names_both_files_and_numbers():
    clean = report_of(DecontaminateReport, kept=40)
    selected = report_of(SelectReport, samples=41, lost={}, with_variant=41)
    with pytest.raises(UserError) as caught:
        source_lines("d", "generate", clean, selected, None)
    assert str(caught.value) == (
        "select/report.json: samples 41, but decontaminate/report.json leaves 40, so the funnel "
        "does not add up; run the select stage again"
    )


def test_more_parts_than_samples_are_refused():
    selected = report_of(SelectReport, samples=10, with_variant=10)
    counts = {"samples": 10, "paired": 8, "marks_cut": 3}
    metrics = report_of(TrainReport, counts=counts, held_out_counts={})
    with pytest.raises(UserError, match="10 samples are trained on, but 0 without a variant, 8 as"):
        run_lines("d", "generate", "r", selected, metrics, FGIT)


def test_samples_without_a_variant_may_have_prompts_that_are_too_long():
    selected = report_of(SelectReport, samples=10, with_variant=7)
    parameters = FGIT

    def lines(no_variant):
        counts = {"samples": 10, "paired": 8 - no_variant, "no_variant": no_variant}
        metrics = report_of(TrainReport, counts=counts | {"prompt_too_long": 2}, held_out_counts={})
        return run_lines("d", "generate", "r", selected, metrics, parameters)

    assert [lines(number)[-1].left for number in (1, 2, 3)] == [7, 6, 5]
    for number, count in ((0, "0 to 2"), (4, "4 to 6")):
        with pytest.raises(UserError, match=f"no_variant {count}, but .* leaves 3 samples"):
            lines(number)


SIDES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 5), SIDES, st.none() | SIDES), min_size=1, max_size=8),
    st.integers(2, 8),
)
def test_the_funnel_is_what_the_training_makes_of_the_samples(samples, max_length):
    """By the training's own counts, whatever its tokenizer does (equal tokens with marks too)."""
    counts, examples = Counter(samples=len(samples)), []
    for prompt, response, variant in samples:
        sides = [
            None
            if side is None
            else TokenMasks(
                np.array([token for token, _ in side], dtype=np.int64),
                np.array([mark for _, mark in side], dtype=np.int8),
                np.array([mark for _, mark in side], dtype=np.int8),
            )
            for side in (response, variant)
        ]
        example, counted = build(
            id="x",
            prompt=np.zeros(prompt, dtype=np.int64),
            end=9,
            response=sides[0],
            variant=sides[1],
            granularity="hybrid",
            max_length=max_length,
        )
        counts.update(counted)
        if example is not None:
            examples.append(example)
            counts["paired"] += example.paired
    paired = sum(example.paired for example in examples)
    pairs = sum(variant is not None for _, _, variant in samples)
    selected = report_of(SelectReport, samples=len(samples), with_variant=pairs)
    metrics = report_of(TrainReport, counts=dict(counts), held_out_counts={})
    parameters = FGIT
    lines = run_lines("d", "generate", "r", selected, metrics, parameters)
    row = dict(zip(RUN_HEADINGS, training_cells(lines), strict=True))
    assert int(row["as pairs"]) == paired
    assert int(row["with weight 1"]) == len(examples) - paired
    assert int(row["prompt too long"]) == len(samples) - len(examples)


# ------------------------------------------------------------------ drawn


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder of two datasets; for tests that only read it."""
    rows = [
        {"label": f"{method} {dataset}", "model": "tiny", "dataset": dataset, "method": method}
        for dataset, methods in {
            "tasks": ("sft", "fgit", "dpo", "mutation"),
            "more": ("fgit",),
        }.items()
        for method in methods
    ]
    datasets = {"tasks": {"path": "tasks.jsonl"}, "more": {"path": "more.jsonl"}}
    table = {"caption": "All", "columns": ["easy"], "rows": rows}
    config = make_config(datasets=datasets, tables={"main": table})
    folder = Folder(tmp_path_factory.mktemp("funnel") / "results", config)
    report(config, folder.root)
    return folder


def edited(path, **changes):
    write_json(path, json.loads(path.read_text("utf-8")) | changes)


def test_the_report_writes_it(finished):
    rows = list(
        csv.DictReader(finished.drawn("tables", "funnel.csv").read_text("utf-8").splitlines())
    )
    assert list(rows[0]) == ["dataset", "source", "run", "step", "reason", "lost", "left"]
    assert [row["dataset"] for row in rows if row["reason"] == "rows read"] == ["tasks", "more"]
    of = [row for row in rows if row["run"] == "tiny/more/fgit/seed-0"]
    assert [(row["reason"], row["lost"], row["left"]) for row in of] == [
        ("samples", "", "40"),
        ("held out", "8", "32"),
        ("prompt longer than the maximum length", "1", "31"),
        ("trained on", "", "31"),
        ("trained with weight 1: no variant", "3", "28"),
        ("trained with weight 1: marks cut off by the maximum length", "2", "26"),
        ("trained with weight 1: no marked difference in tokens", "1", "25"),
        ("trained with a dynamic weight", "", "25"),
    ]
    sources = {row["run"]: row["source"] for row in rows}
    assert sources["tiny/tasks/mutation/seed-0"] == "mutate"
    text = finished.drawn("tables", "funnel.md").read_text("utf-8")
    assert text.index("## tasks\n") < text.index("## more\n")
    assert "| generate | select        | only variants equal to the response" in text
    assert re.search(r"tiny/tasks/dpo/seed-0 +\| a preference +\| +40 \| +8 \| +1 \| +3 \|", text)


def test_the_page_draws_it_with_bars(finished):
    section = finished.html().partition('<h2 id="funnel">')[2].partition("<h2")[0]
    assert re.findall("<h3>(.*?)</h3>", section) == ["tasks", "more"]
    rows = re.findall(
        r"<td>([^<]*)</td><td class=\"number\">(\d*)</td>.*?width: ([\d.]+)%", section
    )
    assert rows[:2] == [
        ("= rows read", "", "100.0"),
        ("unusable row: &#39;response&#39; is empty", "1", "97.7"),
    ]
    assert ("= pairs", "", "83.7") in rows
    assert section.count("variants by mutation") == 2 + 1  # a step of each, and a training of one
    assert 'title="tiny/tasks/fgit/seed-0">tasks · fgit<' in section


def test_the_command_finds_all_that_lies_there(finished, tmp_path, capsys):
    for name in ("out.md", "out.csv"):
        out = tmp_path / name
        assert main(["funnel", "--results", str(finished.root), "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        assert printed.index("## more\n") < printed.index("## tasks\n")
    assert (tmp_path / "out.md").read_text("utf-8") == printed
    commands, drawn = (
        sorted(path.read_text("utf-8").splitlines())
        for path in (tmp_path / "out.csv", finished.drawn("tables", "funnel.csv"))
    )
    assert commands == drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.md"]


@pytest.mark.parametrize(
    ("removed", "last"),
    [
        ("train", "pairs"),
        ("annotate", "pairs"),
        ("select", "records"),
    ],
)
def test_it_ends_where_the_stages_have_come_to(folder, capsys, removed, last):
    for stage in {"train": ["train"], "annotate": ["train", "annotate"]}.get(
        removed, ["train", "annotate", "select"]
    ):
        folder.path(stage).rename(folder.path(f"no-{stage}"))
    funnel(folder.root, None)
    printed = capsys.readouterr().out
    assert re.findall(r"= (\w+)", printed)[-1] == last
    assert "trained with" not in printed and "Samples =" not in printed


def test_a_training_that_has_not_ended_is_not_there(folder, capsys):
    folder.path("train/tiny/tasks/fgit/seed-0/provenance.json").unlink()
    funnel(folder.root, None)
    printed = capsys.readouterr().out
    assert "tasks/sft/seed-0" in printed and "tasks/fgit/seed-0" not in printed


def test_a_folder_without_a_dataset_is_refused(tmp_path, capsys):
    assert main(["funnel", "--results", str(tmp_path)]) == 1
    assert f"{tmp_path}: no decontaminate/DATASET/report.json" in capsys.readouterr().err
    assert main(["funnel", "--results", str(tmp_path / "none")]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_another_suffix_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"x\.txt: a funnel is written as \.md or \.csv"):
        funnel(tmp_path / "none", tmp_path / "x.txt")


def test_a_training_of_unknown_pairs_is_named(folder):
    edited(folder.path("train/tiny/tasks/fgit/seed-0/provenance.json"), inputs={})
    with pytest.raises(UserError, match=r"fgit/seed-0/provenance\.json: no input 'spans'"):
        funnel(folder.root, None)


def test_a_stage_that_ran_again_alone_does_not_keep_the_report_from_being_drawn(folder, no_figures):
    edited(folder.path("decontaminate/tasks/report.json"), over_limit=0, kept=41)
    with pytest.raises(UserError, match=r"generate/report\.json: samples 40, but .* leaves 41"):
        funnel(folder.root, None)
    report(folder.config, folder.root)
    section = folder.html().partition('<h2 id="funnel">')[2].partition("<h2")[0]
    assert "samples 40, but" in section and "does not add up" in section and "<td" not in section
    assert len(folder.table()) == 5
    assert "does not add up" in folder.drawn("tables", "funnel.md").read_text("utf-8")
    assert folder.drawn("tables", "funnel.csv").read_text("utf-8") == funnel_csv([])


def test_before_anything_has_run_it_says_so(folder, no_figures):
    for stage in ("decontaminate", "train", "score"):
        folder.path(stage).rename(folder.path(f"no-{stage}"))
    report(folder.config, folder.root)
    assert "No dataset is decontaminated yet." in folder.drawn("tables", "funnel.md").read_text(
        "utf-8"
    )
    assert folder.drawn("tables", "funnel.csv").read_text("utf-8") == funnel_csv([])
    assert funnel_csv([]) == "dataset,source,run,step,reason,lost,left\n"


def test_names_and_reasons_are_shown_as_they_are():
    lines = [
        FunnelLine("d", "", "", "decontaminate", "rows read", None, 3),
        FunnelLine("d", "", "", "decontaminate", "'a|b' is *empty*, \"no\"", 1, 2),
    ]
    assert "\\*empty\\*" in funnel_markdown(lines) and "'a\\|b'" in funnel_markdown(lines)
    [_, row] = csv.DictReader(funnel_csv(lines).splitlines())
    assert row["reason"] == lines[1].reason
