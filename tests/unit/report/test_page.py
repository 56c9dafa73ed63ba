"""The page: what it shows and from which files, on a made-up results folder."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.annotate import segments
from fgit.errors import UserError
from fgit.files import write_json
from fgit.report import report
from fgit.report.facts import Facts
from fgit.report.figures import thinned
from fgit.report.scores import short_names
from fgit.report.segments import code_lines, facing, side_by_side, token_lines
from fgit.runs import all_runs
from tests.results_folder import EVIL, RESPONSE, Folder, make_config


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "results", make_config())


def data_of(folder):
    """What the page's script reads."""
    text = folder.html().partition('<script type="application/json" id="data">')[2]
    return json.loads(text.partition("</script>")[0])


class Checker(HTMLParser):
    """Collects what a page loads, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "br", "link", "img", "use"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [
            value for name, value in attributes if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def test_page_loads_nothing_from_elsewhere(folder):
    report(folder.config, folder.root)
    page = checked(folder.html())
    assert all(link.startswith("#") for link in page.links)
    assert "link" not in page.tags and page.tags.count("script") == 2
    urls = re.findall(r"url\(([^)]*)\)", folder.html())
    assert urls and all(url.startswith("#") for url in urls)
    assert "http://" not in folder.html() and "https://" not in folder.html()
    defined = set(re.findall(r'\bid="([^"]*)"', folder.html()))
    assert {link[1:] for link in [*page.links, *urls]} <= defined


def test_the_policy_allows_the_pages_script_alone(folder):
    report(folder.config, folder.root)
    html = folder.html()
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in policy


def test_page_ids_are_unique(folder):
    report(folder.config, folder.root)
    ids = re.findall(r'\bid="([^"]*)"', folder.html())
    assert len(ids) == len(set(ids))


def test_page_shows_every_part(folder):
    report(folder.config, folder.root)
    page = checked(folder.html())
    text = " ".join(page.text)
    assert page.tags.count("svg") == 5  # loss, weight, held out, similarity by two sources
    for part in [
        *("All methods", "Stand-ins throughout.", "30.0", "16.8 to 68.7", "sample-3", "same code"),
        *("tiny-teacher", "tiny-embedder", "Easy/9", "sandbox bwrap", "polars"),
    ]:
        assert part in text, part
    assert "4 of 10 problems; 95 % interval 16.8 to 68.7" in folder.html()


def test_each_number_has_its_chain_once(folder):
    report(folder.config, folder.root)
    data = data_of(folder)
    assert len(data["cells"]) == 5 * 2 and len(data["chains"]) == 5
    [[run, key]] = data["cells"]["main-2-0"]["chains"]
    assert run == "tiny/tasks/fgit/seed-0"
    chain = data["chains"][key]
    steps = [data["steps"][place] for place in chain["steps"]]
    assert [step["stage"] for step in steps] == ["annotate", "train", "evaluate", "score"]
    assert re.fullmatch("[0-9a-f]{12}", chain["id"])
    inputs = [file for file in steps[1]["files"] if file[0] == "spans"]
    assert inputs[0][1] == "annotate/tasks/generate/spans.parquet" and len(inputs[0][2]) == 12
    names = [step["what"] for step in data["steps"]]
    assert len(names) == len(set(names))  # the spans of two runs are one step
    shared = dict(steps[1]["shared"])
    assert "torch" in data["shared"][shared["packages"]]


def test_what_is_not_scored_has_no_chain_but_a_reason(folder):
    run = "tiny/tasks/dpo/seed-0"
    folder.path("score", run, "easy", "summary.json").unlink()
    report(folder.config, folder.root)
    assert "not scored yet" in folder.html()
    assert data_of(folder)["cells"]["main-3-0"]["value"] is None


def test_outcomes_are_told_in_letters(folder):
    folder.score("tiny/base", "easy", [True, False] * 5)
    report(folder.config, folder.root)
    [told] = data_of(folder)["outcomes"]
    outcomes = {
        tests: [told["letters"][x] for x in word] for tests, word in told["runs"][0].items()
    }
    assert outcomes["base"] == ["pass", "fail"] * 5
    assert outcomes["plus"] == ["pass", "fail"] * 4 + ["fail", "fail"]
    row = re.search(r"<tr><th>Easy/0</th>(.*?)</tr>", folder.html(), re.DOTALL)[1]
    assert row.startswith("<td class=plus>●</td>")


def test_speed_and_share_of_weighted_tokens_are_in_the_table(folder):
    report(folder.config, folder.root)
    rows = re.findall(r"<tr><td title=\"tiny/tasks/(\w+)/.*?</tr>", folder.html(), re.DOTALL)
    assert rows == ["sft", "fgit", "dpo", "mutation"]
    table = folder.html().partition("weighted</th>")[2].partition("</table>")[0]
    cells = [re.findall(r">([^<>]+)</?(?:td|small)", row) for row in table.split("<tr>")[1:]]
    shown = {row[0]: row for row in cells}
    assert "10.0 %" in shown["fgit"] and "1004" in shown["fgit"] and "MFU 45.0 %" in shown["fgit"]
    assert "0.0 %" in shown["sft"] and not [cell for cell in shown["sft"] if "MFU" in cell]


def test_the_curves_of_the_weight_are_of_runs_that_have_one(folder):
    report(folder.config, folder.root)
    figure = folder.html().partition('aria-label="Mean probabilities')[2].partition("</svg>")[0]
    assert all(word in figure for word in ("fgit", "mutation", "mean weight", "p̄′"))
    assert "sft" not in figure and "dpo" not in figure


def test_without_a_dynamic_weight_there_are_no_curves_of_it(tmp_path):
    rows = [{"model": "tiny", "dataset": "tasks", "method": "sft"}]
    config = make_config(tables={"main": {"caption": "c", "columns": ["easy"], "rows": rows}})
    folder = Folder(tmp_path / "results", config)
    report(config, folder.root)
    assert "Mean probabilities" not in folder.html() and "Training loss" in folder.html()


def test_long_curves_are_thinned_to_means():
    assert thinned([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert thinned([1.0, 3.0, 5.0, 7.0, 9.0], 3) == [2.0, 6.0, 9.0]
    assert len(thinned([0.0] * 1737)) <= 200
    assert thinned([]) == []


def test_what_a_model_wrote_is_escaped(tmp_path):
    config = make_config(note=f"note {EVIL}")
    folder = Folder(tmp_path / "results", config, response=f"{EVIL}\n{RESPONSE}\x00\r\n")
    report(config, folder.root)
    html = folder.html()
    assert html.lower().count("<script") == 2 and EVIL not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "␀␍" in html and "\x00" not in html
    assert "".join(data_of(folder)["segments"]["texts"][0]["tokens"][0]).startswith(EVIL)
    checked(html)


def test_the_same_inputs_give_the_same_page(folder):
    def page():
        report(folder.config, folder.root)
        return folder.html()

    assert page() == page()


def test_short_names_leave_out_what_is_shared():
    runs = all_runs(make_config(seeds=[0]))
    assert list(short_names(runs.values()).values()) == ["base", "sft", "fgit", "dpo", "mutation"]
    runs = all_runs(make_config(seeds=[0, 1]))
    assert list(short_names(runs.values()).values())[:3] == ["base", "sft · seed 0", "sft · seed 1"]


def test_claims_and_figures_are_shown(tmp_path):
    rows = [
        {"model": "tiny", "method": "base"},
        {"model": "tiny", "dataset": "tasks", "method": "sft", "x": 1},
        {"model": "tiny", "dataset": "tasks", "method": "fgit", "x": 2},
    ]
    table = {"caption": "A sweep", "columns": ["easy"], "rows": rows, "figure": {"x": "alpha"}}
    claims = [
        {"label": "better", "tables": ["main"], "of": "fgit", "over": "base", "published": 4.8},
        {"label": "unknown", "tables": ["main"], "of": "sft", "over": "base"},
    ]
    folder = Folder(tmp_path / "results", make_config(tables={"main": table}, claims=claims))
    for run, passed in [("base", 4), ("tasks/fgit/seed-0", 5)]:
        folder.score(f"tiny/{run}", "easy", [number < passed for number in range(10)])
    folder.path("score", "tiny/tasks/sft/seed-0", "easy", "summary.json").unlink()
    report(folder.config, folder.root)
    html = folder.html()
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in html.split("<tr>")]
    assert ["better", "tiny", "25.0", "–", "4.8"] in rows
    assert ["unknown", "tiny", "pending", "–", "–"] in rows
    assert 'aria-label="A sweep"' in html and "<figcaption>A sweep</figcaption>" in html
    checked(html)


# ------------------------------------------------------------------ the segment view


def text_of(line):
    return line.html.replace("<mark>", "[").replace("</mark>", "]").unescape()


def test_marks_follow_the_spans():
    lines = code_lines("a\nbcd\nx < y\n", [(2, 12)], [(3, 7), (8, 9)])
    assert [text_of(line) for line in lines] == ["a", "b[cd↵]", "[x] [<] y"]
    assert [line.changed for line in lines] == [False, True, True]
    assert lines[2].html.endswith("<mark>&lt;</mark> y")


TEXTS = st.text(alphabet="ab<&\n\té", max_size=30)


@given(TEXTS, TEXTS)
def test_side_by_side_keeps_every_line_in_order(response, variant):
    found = segments(response, variant)
    sides = (
        code_lines(response, found.response_lines, found.response_characters),
        code_lines(variant, found.variant_lines, found.variant_characters),
    )
    pairs = side_by_side(*sides)
    for i, (side, text) in enumerate(zip(sides, (response, variant), strict=True)):
        assert [pair[i] for pair in pairs if pair[i]] == side
        shown = [re.sub(r"[\[\]↵]", "", text_of(line)) for line in side]
        assert shown == text.removesuffix("\n").split("\n")[: len(shown)]
    for left, right in pairs[:-1]:  # a last line without a newline may stand alone
        if left and right and not (left.changed or right.changed):
            assert left.html == right.html


def test_pairs_that_no_training_shows_are_shown_by_characters(folder):
    for path in folder.root.glob("train/**/segments.json"):
        path.unlink()
    report(folder.config, folder.root)
    html = folder.html()
    assert "first 8 of 12 pairs" in html and 'id="viewer"' not in html
    assert html.count("<mark>+</mark>") == 16 and html.count("<mark>-</mark>") == 16


def test_the_viewer_has_what_training_saw(folder):
    report(folder.config, folder.root)
    view = data_of(folder)["segments"]
    # Both sources are trained on, runs with a weight come first, and DPO left none.
    assert [run["name"] for run in view["runs"]] == ["fgit", "mutation", "sft"]
    assert len(view["texts"]) == 2  # three runs share them
    sample = view["runs"][0]["samples"][1]
    assert sample["epochs"] == [{"epoch": 1, "weight": 1.65, "p_response": 0.625, "p_variant": 0.4}]
    text = view["texts"][sample["text"]]
    assert "".join(text["tokens"][0]) == RESPONSE + "<|end|>"
    line, token, marks = (view["masks"][place] for place in sample["masks"][0])
    marked = [t for t, m in zip(text["tokens"][0], token, strict=True) if m == "1"]
    assert marked == ["+"]
    assert [int(m) for m in marks] == [int(a) + int(b) for a, b in zip(line, token, strict=True)]
    assert view["runs"][0]["scale"] == 1.65 and view["runs"][2]["scale"] is None
    html = folder.html()
    assert '<mark class="m2">+</mark>' in html and '<mark class="m1"> b</mark>' in html
    assert "epoch 1: w 1.650, p̄ 0.625, p̄′ 0.400" in html


def test_a_token_over_a_line_break_is_on_both_lines():
    lines = token_lines(["a", ":\n  ", "<b"], [0, 1, 2])
    assert lines == [
        'a<mark class="m1">:↵</mark>',
        '<mark class="m1">  </mark><mark class="m2">&lt;b</mark>',
    ]


@given(TEXTS, TEXTS)
def test_facing_lines_are_in_order_and_complete(response, variant):
    pairs = facing(response, variant)
    for side, text in enumerate((response, variant)):
        lines = text.removesuffix("\n").split("\n") if text else []
        assert [pair[side] for pair in pairs if pair[side] >= 0] == list(range(len(lines)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 1}, "key 'samples': not a list of objects"),
        ({"objective": None, "weight": "x"}, "key 'weight': not a number"),
        ({"mask": [0, 1]}, "of 0, 1 and 2, one for each token"),
    ],
)
def test_broken_segments_are_named(folder, change, message):
    path = folder.path("train", "tiny/tasks/fgit/seed-0", "segments.json")
    values = json.loads(path.read_text("utf-8"))
    if mask := change.pop("mask", None):
        values["samples"][0]["response"]["line"] = mask
    write_json(path, values | change)
    with pytest.raises(UserError, match=r"segments\.json") as caught:
        report(folder.config, folder.root)
    assert message in str(caught.value)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train/tiny/tasks/sft/seed-0/metrics.json", "{}", "held_out_before"),
        ("train/tiny/tasks/sft/seed-0/steps.jsonl", '{"step": 1}\n', "row 1: 'loss' is None"),
        ("train/tiny/tasks/sft/seed-0/run.yaml", "a: [", "cannot be read"),
        ("annotate/tasks/generate/spans.parquet", "no", "not a readable Parquet file"),
        ("decontaminate/tasks/report.json", "[]", "not a JSON object"),
        ("generate/tasks/report.json", '{"answers": 3}', "'teacher'"),
        ("evaluate/tiny/base/easy/samples.jsonl", "{}\n", "'tokens'"),
        ("annotate/tasks/generate/spans.parquet.provenance.json", "{}", "provenance"),
    ],
)
def test_a_broken_file_is_named(folder, file, text, message):
    folder.path(file).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(file)) as caught:
        report(folder.config, folder.root)
    assert message in str(caught.value)


def test_facts_name_the_nested_key(tmp_path):
    facts = Facts.of(tmp_path / "x.json", "select", {"similarity": {"mean": True}})
    with pytest.raises(UserError, match=r"x\.json, key 'similarity\.mean': not a number"):
        facts.part("similarity").number("mean")
