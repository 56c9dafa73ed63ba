"""The benchmarks of the data's stages run, and give what they say."""

import json
import warnings

import pytest

from tests.speed import data_stages, peers, planted, synthetic
from tests.speed.synthetic import Problem

DOCSTRING = """Add x to `a`, as in add(a=1, x=2) for you.

    It's a sum, and that's all.
    Both are numbers of any kind.
    """
ADD = Problem(
    benchmark="humaneval",
    task_id="HumanEval/0",
    prompt=f'def add(a, x):\n    """{DOCSTRING}"""\n',
    docstring=DOCSTRING,
    head="def add(a, x):\n",
    solution="    # the sum\n    a = a + x  # of both\n\n    return a\n",
    entry_point="add",
)
COMPILING = (
    "arguments renamed",
    "function renamed",
    "no comments and docstrings",
    "other line ends",
    "doubled spaces",
)
FIGURES = [
    "decontaminate_peak_gb",
    "decontaminate_speedup",
    "decontaminate_speedup_per_core",
    "decontaminate_speedup_paper",
    "decontaminate_speedup_paper_per_core",
    "annotate_pairs_per_s",
    "annotate_speedup",
    "masks_over_tokenizer",
    "masks_over_tokenizer_one_core",
    "masks_speedup",
]


@pytest.mark.slow
def test_one_run_of_all(tmp_path, shared_data, tokenizer, monkeypatch):
    # Loading the tokenizer, and the two larger benchmarks in each command, would take longest.
    monkeypatch.setattr(data_stages, "load_tokenizer", lambda _: tokenizer)
    only = {"humaneval": shared_data / synthetic.BENCHMARKS["humaneval"]}
    monkeypatch.setattr(synthetic, "problem_files", lambda _: only)
    monkeypatch.setattr(synthetic, "to_plant", lambda found: found[:1])
    command = ["--json", str(tmp_path / "out.json"), "--data", str(shared_data), "--turns", "1"]
    command += ["--sizes", "300", "--pairs", "30", "--texts", "30", "--part", "20"]
    assert data_stages.main([*command, "--chart", str(tmp_path / "out.svg")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    for name in FIGURES:
        assert found[name] > 0
    assert found["decontaminate_seconds_100k"] is None
    runs = found["decontaminate"]["runs"]
    assert [(run["mode"], run["processes"]) for run in runs] == [
        ("strict", 2), ("strict", 1), ("paper", 2), ("paper", 1)
    ]  # fmt: skip
    [size] = found["decontaminate"]["by_size"]
    assert size["samples"] == 300 and size["seconds"] == runs[0]["seconds"]
    theirs = found["decontaminate"]["magicoder"]["milliseconds_per_sample"]
    ours = size["milliseconds_per_sample"]
    assert found["decontaminate_speedup"] == pytest.approx(theirs / ours)
    assert ">300</" in (tmp_path / "out.svg").read_text()


def test_a_kept_plant_is_told(tmp_path, shared_data, monkeypatch, capsys):
    cost = data_stages.Cost(1.0, 1)
    monkeypatch.setattr(data_stages, "run_decontaminate", lambda *_: (cost, {"s0", "s7"}))
    command = ["--json", str(tmp_path / "out.json"), "--data", str(shared_data), "--part", "1"]
    command += ["--only", "decontaminate", "--turns", "1", "--sizes"]
    assert data_stages.main([*command, "8"]) == 0
    runs = json.loads((tmp_path / "out.json").read_text())["decontaminate"]["runs"]
    assert [(run["planted"], run["others_removed"]) for run in runs] == [(1, 1)] * 4
    (tmp_path / "out.json").unlink()
    assert data_stages.main([*command, "1001"]) == 1
    assert "kept 1 that hold a benchmark's text: s1000" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_figures_are_medians_at_the_largest_size():
    def runs_of(samples, mode, processes, seconds):
        return [
            {"samples": samples, "mode": mode, "processes": processes, "seconds": s, "peak_gb": s}
            for s in seconds
        ]

    runs = runs_of(10, "strict", 2, [7]) + runs_of(100_000, "strict", 2, [50, 20, 60])
    runs += runs_of(100_000, "strict", 1, [80]) + runs_of(100_000, "paper", 2, [10])
    runs += runs_of(100_000, "paper", 1, [16])
    assert data_stages.decontaminate_figures(runs, theirs=0.004) == {
        "decontaminate_seconds_100k": 50,
        "decontaminate_peak_gb": 60,
        "decontaminate_speedup": 8,
        "decontaminate_speedup_per_core": 5,
        "decontaminate_speedup_paper": 40,
        "decontaminate_speedup_paper_per_core": 25,
    }


def test_a_failing_stage_is_told(tmp_path):
    with pytest.raises(data_stages.UserError, match="arguments are required: --pairs"):
        data_stages.run(["annotate", "--threads", 2], tmp_path / "log")


# ------------------------------------------------------------------ the plain ways


def test_magicoder_finds_what_stands_verbatim_but_for_case():
    mbpp = {"prompt": "", "docstring": "Sum a list.", "head": "", "entry_point": "f"}
    problems = [
        ADD,
        Problem("humaneval", "HumanEval/53", "", "Add two.", "", " return x + y\n", "add"),
        Problem("mbpp", "11", solution="def f(): pass", **mbpp),
        Problem("mbpp", "511", solution="def late(): pass", **mbpp | {"docstring": "Late."}),
    ]
    texts = peers.magicoder_texts(problems)
    assert texts[:2] == [ADD.docstring.strip(), ADD.solution.strip()]
    assert texts[2:] == ["Add two.", "Sum a list.", "def f(): pass"]

    def found(instruction, response=""):
        sample = {"instruction": instruction, "response": response}
        return peers.magicoder_removes(sample, texts)

    assert found(ADD.prompt) and found(ADD.prompt.upper()) and found("", f"So:\n{ADD.program}")
    assert found("Please: SUM A LIST.") and found("", "return x + y\nadd two.")
    assert not found(ADD.prompt.replace("\n", " ")) and not found("Sum a  list.")
    assert not found("", "return x + y") and not found("Late.", "def late(): pass")


def test_open_r1_finds_eight_words():
    forbidden = peers.open_r1_grams([ADD])
    words = "x to `a`, as in add(a=1, x=2) for"

    def found(instruction, response=""):
        sample = {"instruction": instruction, "response": response}
        return peers.open_r1_removes(sample, forbidden)

    assert found(words) and found("", f"now {words.upper()}".replace(" ", "\n\t"))
    assert not found(words.removesuffix(" for"))


def test_the_plain_spans_are_the_definition():
    found = data_stages.plain_spans("a\nfoo\nb", "a\nfou\nb\nc")
    assert found == ([(2, 6)], [(4, 5)], [(2, 6), (8, 9)], [(4, 5), (8, 9)])
    assert data_stages.plain_spans("a\nb", "a") == ([(2, 3)], [(2, 3)], [], [])
    assert data_stages.plain_spans("a", "a") == ([], [], [], [])


# ------------------------------------------------------------------ synthetic data


@pytest.fixture(scope="module")
def problems(shared_data):
    return synthetic.problems(shared_data)


def test_problems_are_programs(problems):
    assert len(problems) == 164 + 974 + 1140
    for problem in problems:
        assert f"def {problem.entry_point}" in problem.program
        assert problem.docstring in problem.prompt and problem.docstring not in problem.program


def test_samples_are_the_same_each_time_and_of_the_stated_length(shared_data, problems):
    real = synthetic.gpteacher(shared_data)
    chosen = synthetic.to_plant(problems)
    samples = list(synthetic.samples(real, chosen, 1500))
    assert samples[:20] == list(synthetic.samples(real, chosen, 20))
    assert samples[:20] != list(synthetic.samples(real, chosen, 20, seed=1))
    assert len({sample["response"] for sample in samples}) == len(samples)
    for name, mean in [
        ("instruction", synthetic.INSTRUCTION_CHARACTERS),
        ("response", synthetic.RESPONSE_CHARACTERS),
    ]:
        assert sum(len(sample[name]) for sample in samples) / 1500 == pytest.approx(mean, rel=0.1)
    held = [
        any(p.prompt in sample["instruction"] or p.program in sample["response"] for p in chosen)
        for sample in samples[::250]
    ]
    assert held == [True, False, False, False, True, False]


def test_pairs_differ_in_a_bug_or_in_all(shared_data):
    small, large = synthetic.bugs(shared_data), synthetic.wrong_answers(shared_data)
    real = synthetic.gpteacher(shared_data)
    pairs = list(synthetic.pairs(real, small, large, 400))
    assert pairs[:20] == list(synthetic.pairs(real, small, large, 20))
    lengths = [len(pair["response"]) for pair in pairs]
    assert sum(lengths) / 400 == pytest.approx(synthetic.PAIR_CHARACTERS, rel=0.1)
    spans = [data_stages.plain_spans(pair["response"], pair["variant"]) for pair in pairs]
    assert all(found[0] or found[2] for found in spans)
    share = sum(len(found[0]) > 3 for found in spans) / 400
    assert 0.1 < share < 0.4


# ------------------------------------------------------------------ the planted forms


def made(problem):
    """(kind, form) -> the text that is planted."""
    return {(kind, form): text for kind, form, text in planted.plants([problem])}


def test_each_form_is_what_its_name_says():
    head, first, second, blank, last = ADD.program.removesuffix("\n").split("\n")
    assert {form: text for (kind, form), text in made(ADD).items() if kind == "solution"} == {
        "verbatim": ADD.program,
        "indented by tabs": ADD.program.replace("    ", "\t"),
        "indented by two spaces": ADD.program.replace("    ", "  "),
        "a level deeper": f"    {head}\n    {first}\n    {second}\n{blank}\n    {last}\n",
        "upper case": ADD.program.upper(),
        "swapped case": ADD.program.swapcase(),
        "spaces for newlines": f"{head} {first} {second} {blank} {last} ",
        "doubled spaces": ADD.program.replace(" ", "  "),
        "blank lines between": f"{head}\n\n{first}\n\n{second}\n\n{blank}\n\n{last}\n\n",
        "other line ends": f"{head}\r\n{first}\r\n{second}\r\n{blank}\r\n{last}\r\n",
        "arguments renamed": (
            "def add(alpha, bravo):\n"
            "    # the sum\n"
            "    alpha = alpha + bravo  # of both\n"
            "\n"
            "    return alpha\n"
        ),
        "function renamed": ADD.program.replace("add", "answer_of_task"),
        "no comments and docstrings": "def add(a, x):\n    a = a + x\n\n    return a\n",
        "first and last line changed": (
            f"{head}\n    checked = True\n{second}\n\n    checked = True\n"
        ),
    }


def test_prompts_have_the_forms_in_their_docstrings():
    texts = made(ADD)
    assert ("prompt", "no comments and docstrings") not in texts
    assert texts["prompt", "function renamed"] == ADD.prompt.replace("add(", "answer_of_task(")
    first = "Add bravo to `alpha`, as in add(alpha=1, bravo=2) for you."
    assert texts["prompt", "arguments renamed"] == (
        f'def add(alpha, bravo):\n    """{first}\n' + ADD.prompt.split("\n", 2)[2]
    )
    other, same = "Other words stand here.\n", "\n    It's a sum, and that's all.\n    "
    assert f"{other}{same}{other}" in texts["prompt", "first and last line changed"]


def test_a_name_is_replaced_where_it_is_the_argument():
    program = '''\
def f(a, n=0, *rest):
    """A list of a kind, n times: f(a, n=1)."""
    # n
    text = f'{a} a {n:>4} {rest}'
    def inner():
        """Of n."""
        return dict(n=n, a=1).get('n'), self.n
    return 'é', n, f(a, n=n - 1), text
'''
    given = planted.Text("solution", program, program, "f", True)
    other = '''\
def f(alpha, bravo=0, *charlie):
    """A list of a kind, bravo times: f(alpha, bravo=1)."""
    # n
    text = f'{alpha} a {bravo:>4} {charlie}'
    def inner():
        """Of bravo."""
        return dict(n=bravo, a=1).get('n'), self.n
    return 'é', bravo, f(alpha, bravo=bravo - 1), text
'''
    assert planted.other_arguments(given) == other
    lines = [line for line in program.split("\n") if "# n" not in line and '"""' not in line]
    assert planted.without_comments(given) == "\n".join(lines)


def test_renamed_programs_pass_their_tests(shared_data, problems):
    rows = synthetic.objects(shared_data / synthetic.BENCHMARKS["humaneval"])
    for row, problem in list(zip(rows, problems, strict=False))[::16]:
        assert problem.task_id == row["task_id"]
        texts = made(problem)
        for form, name in [
            ("arguments renamed", problem.entry_point),
            ("function renamed", planted.NEW_FUNCTION),
        ]:
            names: dict = {}
            exec(texts["solution", form] + row["test"], names)
            names["check"](names[name])


def test_forms_of_real_problems_compile(problems):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for problem in problems[::10]:
            for (kind, form), text in made(problem).items():
                if form in COMPILING and (kind == "solution" or problem.benchmark != "mbpp"):
                    compile(text, f"{problem.task_id}, {form}", "exec")


def test_what_each_way_removes(tmp_path):
    row = {"task_id": ADD.task_id, "prompt": ADD.prompt, "entry_point": "add"}
    row |= {"canonical_solution": ADD.solution, "test": ""}
    (tmp_path / "problems.jsonl").write_text(json.dumps(row) + "\n")
    carrier = {"id": "carrier", "instruction": "Say hello.", "response": "print('hello')"}
    samples = [carrier]
    for form in ("verbatim", "doubled spaces"):
        text = made(ADD)["prompt", form]
        samples.append(planted.planted(carrier, "prompt", text) | {"id": form})
    benchmarks = {"humaneval": tmp_path / "problems.jsonl"}
    assert planted.removed_by(samples, [ADD], benchmarks, tmp_path) == {
        "magicoder": {"verbatim"},
        "open_r1": {"verbatim", "doubled spaces"},
        "paper": {"verbatim"},
        "strict": {"verbatim", "doubled spaces"},
    }


def test_the_table_has_a_row_for_each_form():
    found = dict.fromkeys(planted.WAYS, 0.999) | {"strict": 1.0, "magicoder": 0.001}
    row = {"benchmark": "mbpp", "kind": "solution", "form": "verbatim", "planted": 974}
    price = {"samples": 4535, "removed": dict.fromkeys(planted.WAYS, 2)}
    lines = planted.markdown({"forms": [row | {"found": found}], "price": price}).splitlines()
    assert lines[0].startswith("| MBPP | prompts | Magicoder | open-r1 | `paper` | `strict` |")
    assert lines[2] == "| verbatim |  |  |  |  |  | 974 | 1 % | 99 % | 99 % | 100 % |"
    assert lines[-1] == "| 4,535 | 2 | 2 | 2 | 2 |"
