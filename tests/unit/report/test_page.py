"""The page: what it shows and from which files, on a made-up results folder."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgit.annotate import SPAN_COLUMNS, segments
from fgit.common.errors import UserError
from fgit.common.files import write_json, write_parquet
from fgit.report.decontamination import decontamination_section
from fgit.report.evaluations import short_names
from fgit.report.figures import thinned
from fgit.report.first_pairs import first_pairs
from fgit.report.segments import code_lines, facing, side_by_side, token_lines
from fgit.report.stage import report
from fgit.report.training import read_trainings
from fgit.report.variants import UNITS
from fgit.runs import all_runs
from tests.results_folder import EVIL, RESPONSE, Folder, make_config
from tests.unit.report.conftest import copied


@pytest.fixture(scope="module")
def finished(shared_folder, tmp_path_factory):
    """With its report; for tests that only read it."""
    folder = copied(shared_folder, tmp_path_factory.mktemp("page") / "results")
    report(folder.config, folder.root)
    return folder


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


def test_page_loads_nothing_from_elsewhere(finished):
    page = checked(finished.html())
    assert all(link.startswith("#") for link in page.links)
    assert "link" not in page.tags and page.tags.count("script") == 2
    urls = re.findall(r"url\(([^)]*)\)", finished.html())
    assert urls and all(url.startswith("#") for url in urls)
    assert "http://" not in finished.html() and "https://" not in finished.html()
    defined = set(re.findall(r'\bid="([^"]*)"', finished.html()))
    assert {link[1:] for link in [*page.links, *urls]} <= defined


def test_the_policy_allows_the_pages_script_alone(finished):
    html = finished.html()
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in policy


def test_page_ids_are_unique(finished):
    ids = re.findall(r'\bid="([^"]*)"', finished.html())
    assert len(ids) == len(set(ids))


def test_page_shows_every_part(finished):
    page = checked(finished.html())
    text = " ".join(page.text)
    # Loss, weight, held out, marked tokens; by two sources, similarity and what changed.
    assert page.tags.count("svg") == 8
    for part in [
        *("All methods", "Stand-ins throughout.", "30.0", "16.8 to 68.7", "sample-3", "same code"),
        *("tiny-teacher", "tiny-embedder", "Easy/9", "sandbox bwrap", "polars"),
        "problems: easy sha256 1a2b3c4d…",
        "78.1 %",  # of a training's samples are used
    ]:
        assert part in text, part
    assert "4 of 10 problems; 95 % interval 16.8 to 68.7" in finished.html()


def test_each_number_has_its_chain_once(finished):
    data = data_of(finished)
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


def test_what_is_not_scored_has_no_chain_but_a_reason(folder, no_figures):
    run = "tiny/tasks/dpo/seed-0"
    folder.path("score", run, "easy", "summary.json").unlink()
    report(folder.config, folder.root)
    assert "not scored yet" in folder.html()
    assert data_of(folder)["cells"]["main-3-0"]["value"] is None


def test_outcomes_stand_as_letters(folder, no_figures):
    folder.score("tiny/base", "easy", [True, False] * 5)
    report(folder.config, folder.root)
    [statuses] = data_of(folder)["outcomes"]
    outcomes = {
        tests: [statuses["letters"][x] for x in word] for tests, word in statuses["runs"][0].items()
    }
    assert outcomes["base"] == ["pass", "fail"] * 5
    assert outcomes["plus"] == ["pass", "fail"] * 4 + ["fail", "fail"]
    row = re.search(r"<tr><th>Easy/0</th>(.*?)</tr>", folder.html(), re.DOTALL)[1]
    assert row.startswith("<td class=plus>●</td>")


def test_speed_and_share_of_weighted_tokens_are_in_the_table(finished):
    rows = re.findall(r"<tr><td title=\"tiny/tasks/(\w+)/[^\"]*&#10;", finished.html())
    assert rows == ["sft", "fgit", "dpo", "mutation"]
    table = finished.html().partition("weighted</th>")[2].partition("</table>")[0]
    cells = [re.findall(r">([^<>]+)</?(?:td|small)", row) for row in table.split("<tr>")[1:]]
    rows = {row[0]: row for row in cells}
    assert "10.0 %" in rows["fgit"] and "1004" in rows["fgit"] and "MFU 45.0 %" in rows["fgit"]
    assert "0.0 %" in rows["sft"] and not [cell for cell in rows["sft"] if "MFU" in cell]


def test_the_curves_of_the_weight_are_of_runs_that_have_one(finished):
    figure = finished.html().partition('aria-label="Mean probabilities')[2].partition("</svg>")[0]
    assert all(word in figure for word in ("fgit", "mutation", "mean weight", "p̄′"))
    assert "sft" not in figure and "dpo" not in figure


def test_without_a_dynamic_weight_there_are_no_curves_of_it(tmp_path, no_figures):
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


def test_what_a_model_wrote_is_escaped(tmp_path, no_figures):
    config = make_config(note=f"note {EVIL}")
    folder = Folder(tmp_path / "results", config, response=f"{EVIL}\n{RESPONSE}\x00\r\n")
    report(config, folder.root)
    html = folder.html()
    assert html.lower().count("<script") == 2 and EVIL not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "␀␍" in html and "\x00" not in html
    assert "".join(data_of(folder)["segments"]["texts"][0]["tokens"][0]).startswith(EVIL)
    checked(html)


def test_short_names_leave_out_what_is_shared():
    runs = all_runs(make_config(seeds=[0]))
    assert list(short_names(runs.values()).values()) == ["base", "sft", "fgit", "dpo", "mutation"]
    runs = all_runs(make_config(seeds=[0, 1]))
    assert list(short_names(runs.values()).values())[:3] == ["base", "sft · seed 0", "sft · seed 1"]


def test_claims_and_figures_are_shown(tmp_path, no_figures):
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


# ------------------------------------------------------------------ the data's way


def section_of(folder, name):
    return folder.html().partition(f'<h2 id="{name}">')[2].partition("<h2")[0]


def test_what_was_removed_stands_beside_what_it_was_removed_for(finished):
    section = section_of(finished, "decontamination")
    removed = section.partition("What was removed")[2].partition("</details>")[0]
    cells = re.findall(r"<td>(.*?)</td>", removed)
    assert cells[0] == "sample-3<br><small>row 3, instruction, from character 12</small>"
    assert cells[1] == "easy<br><small>Easy/1, description</small>" and cells[2] == "ngram, 75 %"
    assert cells[3].startswith("<pre>add 2 numbers! &lt;script&gt;")
    assert cells[4].startswith("<pre>Add two numbers. &lt;script&gt;")
    assert "2 more matches are in decontaminate/tasks/matches.parquet" in removed
    left = section.partition("What this mode leaves")[2].partition("</details>")[0]
    assert re.findall(r"<td>(.*?)</td>", left)[2:4] == ["text", "<pre>ADD two numbers</pre>"]


def test_the_facts_of_decontamination(finished):
    section = section_of(finished, "decontamination")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section))
    assert facts["mode"] == "strict" and facts["rows read"] == "43" and facts["kept"] == "40"
    assert facts["left by this mode, found by others"] == "1"
    assert facts["duplicates among the clean: equal but for case and whitespace"] == "2"
    assert "<strong>easy</strong>, 2: Easy/8, Easy/9" in section
    cells = re.findall(r"<tr>(<td>.*?)</tr>", section)
    rows = [re.findall(r">([^<]+)</td>", row) for row in cells]
    assert ["ngram", "2", "1", "1"] in rows and [
        "no fence; the whole is a program",
        "9",
        "22.5 %",
    ] in rows
    assert re.search(r"is a program</td>.*width: 22\.5%", section)
    assert ["a line of the code that is indented by a tab", "2", "5.0 %"] in rows
    assert ["several fenced blocks", "0", "0.0 %"] in rows and "\\r\\n" not in section


def test_nothing_removed_is_no_table(folder, no_figures):
    path = folder.path("decontaminate/tasks/report.json")
    nothing = {"removed": [], "removed_matches": 0, "not_removed": [], "unprotected": {"easy": []}}
    write_json(path, json.loads(path.read_text("utf-8")) | nothing)
    report(folder.config, folder.root)
    assert "<details" not in section_of(folder, "decontamination")


def test_figures_of_the_pairs(finished):
    changed = section_of(finished, "variants").partition('aria-label="How many lines')[2]
    for text in ("changed lines", "changed characters", "response", "variant", ">4<"):
        assert text in changed.partition("</svg>")[0]
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section_of(finished, "variants")))
    assert facts["pairs without a difference"] == "0" and facts["no change in the variant"] == "1"
    training = section_of(finished, "training")
    assert ">sft and 3 more<" in training  # all counted the same
    [_, *table] = (
        training.partition("once they are tokens")[2].partition("</table>")[0].split("<td ")
    )
    row = re.findall(r">([^<>]+)</td>", "<td ".join(table))
    assert row[:7] == ["sft", "25", "0", "1", "1", "2", "3"]


def test_runs_that_counted_no_marked_tokens_have_no_figure_of_them(folder, no_figures):
    for path in folder.root.glob("train/**/metrics.json"):
        metrics = json.loads(path.read_text("utf-8"))
        del metrics["marked_share"]
        write_json(path, metrics)
    report(folder.config, folder.root)
    assert "share of a pair" not in folder.html() and "once they are tokens" in folder.html()


def test_distributions_without_a_pair_are_no_figures(folder, no_figures):
    for path in folder.root.glob("select/**/report.json"):
        write_json(path, json.loads(path.read_text("utf-8")) | {"distribution": [[0.9, 1.0, 0]]})
    nothing = {f"changed_{unit}": {"response": [], "variant": []} for unit in UNITS}
    for path in folder.root.glob("annotate/**/report.json"):
        write_json(path, json.loads(path.read_text("utf-8")) | {"distribution": nothing})
    report(folder.config, folder.root)
    assert "<svg" not in section_of(folder, "variants")


@pytest.mark.parametrize("first", [0, 3, 39, 40])
def test_the_first_pairs_are_read_and_no_more(folder, first):
    """Whatever lies before them."""
    frame = folder.pairs().with_columns(
        pl.when(pl.int_range(pl.len()) >= first).then(pl.col(name)).alias(name)
        for name in ("variant", "similarity", *SPAN_COLUMNS)
    )
    write_parquet(folder.path("annotate/tasks/generate/spans.parquet"), frame)
    pairs = first_pairs(folder.root, "tasks", "generate")
    expected = frame.filter(pl.col("variant").is_not_null()).head(8)
    assert pairs["id"].to_list() == expected["id"].to_list()
    assert pairs.drop("history").equals(expected.select(pairs.drop("history").columns))


def test_spans_without_a_column_are_named(folder):
    path = folder.path("annotate/tasks/generate/spans.parquet")
    write_parquet(path, folder.pairs().drop("variant_lines"))
    with pytest.raises(UserError, match=r"spans\.parquet: no column variant_lines .*run the annot"):
        first_pairs(folder.root, "tasks", "generate")


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
    changed = segments(response, variant)
    sides = (
        code_lines(response, changed.response_lines, changed.response_characters),
        code_lines(variant, changed.variant_lines, changed.variant_characters),
    )
    pairs = side_by_side(*sides)
    for i, (side, text) in enumerate(zip(sides, (response, variant), strict=True)):
        assert [pair[i] for pair in pairs if pair[i]] == side
        lines = [re.sub(r"[\[\]↵]", "", text_of(line)) for line in side]
        assert lines == text.removesuffix("\n").split("\n")[: len(lines)]
    for left, right in pairs[:-1]:  # a last line without a newline may stand alone
        if left and right and not (left.changed or right.changed):
            assert left.html == right.html


def test_pairs_that_no_training_shows_are_shown_by_characters(folder, no_figures):
    for path in folder.root.glob("train/**/segments.json"):
        path.unlink()
    report(folder.config, folder.root)
    html = folder.html()
    assert "first 8 of 36 pairs" in html and 'id="viewer"' not in html
    assert html.count("<mark>+</mark>") == 16 and html.count("<mark>-</mark>") == 16


def test_the_viewer_has_what_training_saw(finished):
    view = data_of(finished)["segments"]
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
    html = finished.html()
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
        ({"samples": 1}, "key 'samples': Input should be a valid list, not 1"),
        ({"weight": "x"}, "key 'weight': Input should be a valid number, not 'x'"),
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
        ("train/tiny/tasks/sft/seed-0/metrics.json", "{}", "'counts': missing"),
        (
            "train/tiny/tasks/sft/seed-0/steps.jsonl",
            '{"step": 1}\n',
            "row 1, key 'loss': missing",
        ),
        ("train/tiny/tasks/sft/seed-0/run.yaml", "a: [", "cannot be read"),
        ("annotate/tasks/generate/spans.parquet", "no", "not a readable Parquet file"),
        ("decontaminate/tasks/report.json", "[]", "not a JSON object"),
        ("decontaminate/tasks/report.json", '{"rows": 3}', "missing (it has: rows)"),
        ("select/tasks/mutate/report.json", '{"samples": 40}', "'with_variant': missing"),
        ("generate/tasks/report.json", '{"answers": 3}', "'samples': missing"),
        ("evaluate/tiny/base/easy/samples.jsonl", "{}\n", "'tokens'"),
        ("annotate/tasks/generate/spans.parquet.provenance.json", "{}", "provenance"),
    ],
)
def test_a_broken_file_is_named(folder, no_figures, file, text, message):
    for path in folder.root.glob("train/**/segments.json"):
        path.unlink()  # so that the pairs are shown as they were annotated
    folder.path(file).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(file)) as caught:
        report(folder.config, folder.root)
    assert message in str(caught.value)


@pytest.mark.parametrize("shares", [{"response": [1]}, {"response": [1], "variant": ["x"]}])
def test_shares_of_marked_tokens_are_checked(folder, shares):
    path = folder.path("train/tiny/tasks/fgit/seed-0/metrics.json")
    write_json(path, json.loads(path.read_text("utf-8")) | {"marked_share": shares})
    with pytest.raises(UserError, match=r"metrics\.json, key 'marked_share\.variant"):
        read_trainings(all_runs(folder.config).values(), folder.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"unprotected": {"easy": 3}},
            "key 'unprotected.easy': Input should be a valid list, not 3",
        ),
        ({"removed": [{"id": "x"}]}, "key 'removed[0].row': missing"),
        ({"rules": {"text": {}}}, "key 'rules.text.matches': missing"),
    ],
)
def test_a_broken_report_of_decontamination_is_named(folder, change, message):
    path = folder.path("decontaminate/tasks/report.json")
    write_json(path, json.loads(path.read_text("utf-8")) | change)
    with pytest.raises(UserError, match=r"decontaminate/tasks/report\.json") as caught:
        decontamination_section(folder.root, "tasks")
    assert message in str(caught.value)
