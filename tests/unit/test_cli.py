"""The command line: help, flags, errors without tracebacks, provenance beside every result."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fgit import cli, config, verbs
from fgit.annotate import SPANS
from fgit.common.errors import OF_DISKS, Stopped, UserError
from fgit.common.files import sha256, write_jsonl, write_parquet
from fgit.common.provenance import digest
from fgit.fetch import RELEASED
from fgit.flags import read_settings

CODE = "def add(a, b):\n    return a + b\n"
RECORD = {
    "id": "add",
    "instruction": "Write add(a, b), which returns the sum of a and b.",
    "response": f"Here it is:\n```python\n{CODE}```\n",
    "language": "python",
}
PAIR = RECORD | {"variant": RECORD["response"].replace("a + b", "a - b")}


@pytest.fixture
def fgit(capfd):
    """Run a command; give its exit code and what it wrote to standard error."""

    def run(*arguments):
        code = cli.main([str(a) for a in arguments])
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return code, error

    return run


@pytest.fixture
def refused(fgit, tmp_path):
    """Run a command that must fail, without leaving a file of its own; give its message."""

    def run(*arguments):
        before = set(tmp_path.rglob("*"))
        code, error = fgit(*arguments)
        assert code == 1
        last = error.strip().splitlines()[-1]
        assert set(tmp_path.rglob("*")) == before
        verb = " ".join(arguments[: 2 if arguments[0] in verbs.GROUPS else 1])
        assert f"fgit {verb}: error: " in error, last
        return error.partition(f"fgit {verb}: error: ")[2].strip()

    return run


def written(tmp_path, name, rows):
    path = tmp_path / name
    if path.suffix == ".parquet":
        write_parquet(path, pl.DataFrame(rows))
    else:
        write_jsonl(path, rows)
    return path


@pytest.fixture
def pairs(tmp_path):
    return written(tmp_path, "pairs.jsonl", [PAIR])


@pytest.fixture
def spans(tmp_path, pairs):
    """Annotated pairs, by the command itself."""
    frame = pl.DataFrame([PAIR])
    write_parquet(tmp_path / "pairs.parquet", frame)
    words = filled("annotate", tmp_path / "pairs.parquet", tmp_path)
    assert cli.main([word.replace("o.parquet", "spans.parquet") for word in words]) == 0
    return tmp_path / "spans.parquet"


def subparser(verb):
    parser = cli.make_parser()
    for word in verb.split():
        parser = parser._subparsers._group_actions[0].choices[word]
    return parser


# ------------------------------------------------------------------ help


def test_the_overview_names_every_verb():
    for name, verb in cli.VERBS.items():
        group, _, last = name.rpartition(" ")
        text = (subparser(group) if group else cli.make_parser()).format_help()
        assert last in text and verb.summary.split()[0].lower() in text
    assert {"fetch", "report", "masks", "weights"} <= set(cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_lists_each_setting_with_its_sentence(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*verb.split(), "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    offered = cli.VERBS[verb]
    assert f"{offered.summary}. {offered.details}" in text
    for name, field in offered.settings.model_fields.items() if offered.settings else []:
        if name in offered.fields:
            assert f"--{name.replace('_', '-')}" in text
            sentence = " ".join((field.description or "").split())
            # argparse may break a line behind a hyphen.
            assert re.sub(r"\s", "", sentence) in re.sub(r"\s", "", text), name
            assert f"(default: {field.default})".replace(" ", "") in text.replace(" ", "")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_flag_has_help(verb):
    for action in subparser(verb)._actions:
        assert action.help, action.option_strings


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fgit import cli; cli.make_parser().format_help(); "
        "print([m for m in ('torch', 'transformers', 'polars', 'snakemake') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_never_imports_snakemake():
    folder = cli.Path(cli.__file__).parent
    for source in folder.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) snakemake", source.read_text(), re.MULTILINE), (
            source
        )


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    import fgit as package

    assert capsys.readouterr().out == f"fgit {package.__version__}\n"


def test_python_m_fgit():
    done = subprocess.run([sys.executable, "-m", "fgit", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'nothing'" in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------------ flags


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_threads_are_a_positive_number(value, capsys):
    with pytest.raises(SystemExit):
        cli.main(["annotate", "--pairs", "p", "--out", "o", "--report", "r", "--threads", value])
    assert "argument --threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--alpha", "0.5"], "alpha: must be greater than or equal to 1, not '0.5'"),
        (["--epochs", "1.5"], "epochs: must be a valid integer"),
        (["--learning-rate", "0"], "learning_rate: must be greater than 0, not '0'"),
    ],
)
def test_settings_out_of_range(refused, tmp_path, flags, message):
    out = tmp_path / "out"
    told = refused("train", "--model", "m", "--spans", "s", "--out", out, *flags)
    assert told.startswith(message)


def test_settings_default_to_the_configs():
    for verb, offered in cli.VERBS.items():
        if offered.settings is not None:
            needed = [
                word
                for action in subparser(verb)._actions
                if action.required
                for word in (action.option_strings[0], (action.choices or ["a=b"])[0])
            ]
            for group in subparser(verb)._mutually_exclusive_groups:
                needed += [group._group_actions[0].option_strings[0], "x"] * group.required
            arguments = cli.make_parser().parse_args([*verb.split(), *needed])
            assert read_settings(arguments, offered) == offered.settings(), verb


# ------------------------------------------------------------------ errors


STAGES_INPUTS = {
    "decontaminate": ["--data", "{}", "--benchmark", "b={}", "--out", "{o}", "--report", "{r}"],
    "generate": ["--records", "{}", "--backend", "transformers", "--out", "{o}", "--report", "{r}"],
    "gather": ["--shards", "{}", "--records", "{}", "--out", "{o}", "--report", "{r}"],
    "mutate": ["--records", "{}", "--out", "{o}", "--report", "{r}"],
    "verify": ["--records", "{}", "--variants", "{}", "--out", "{o}", "--report", "{r}"],
    "select": ["--records", "{}", "--variants", "{}", "--out", "{o}", "--report", "{r}"],
    "annotate": ["--pairs", "{}", "--out", "{o}", "--report", "{r}"],
    "train": ["--model", "./none", "--spans", "{}", "--out", "{d}"],
    "evaluate": ["--model", "./none", "--benchmark", "mbpp", "--problems", "{}", "--out", "{o}"],
    "score": ["--benchmark", "mbpp", "--problems", "{}", "--samples", "{}", "--out", "{d}"],
    "results": ["--config", "{}", "--results", "{d}", "--table", "main"],
    "table": ["--config", "{}", "--from", "{}", "--out", "{d}"],
    "report": ["--config", "{}", "--results", "{d}"],
    "funnel": ["--results", "{}"],
    "masks": ["--pairs", "{}", "--tokenizer", "./none", "--out", "{o}"],
    "weights": ["--model", "./none", "--pairs", "{}", "--out", "{o}"],
    "audit records": ["--benchmark", "mbpp", "--problems", "{}", "--out", "{o}"],
    "audit variants": [
        *("--benchmark", "mbpp", "--problems", "{}", "--variants", "{}", "--out", "{d}")
    ],
    "audit sheet": ["--pairs", "{}", "--out", "{d}"],
    "audit kappa": ["{}", "{}"],
    "compare": ["--a", "{}", "--b", "{}", "--out", "{o}"],
    "failures": ["--run", "a={}", "--benchmark", "mbpp", "--problems", "{}", "--out", "{d}"],
    "explain": ["run", "--results", "{}"],
    "plan": ["--config", "{}"],
    "export pairs": ["--spans", "{}", "--out", "{o}"],
    "export model": ["--results", "{}", "--run", "run", "--out", "{d}"],
}


def filled(verb, given, tmp_path):
    places = {"o": tmp_path / "o.parquet", "r": tmp_path / "r.json", "d": tmp_path / "d"}
    return [
        *verb.split(),
        *(word.replace("{}", str(given)).format(**places) for word in STAGES_INPUTS[verb]),
    ]


def test_every_stage_is_tried_below():
    assert set(STAGES_INPUTS) == set(cli.VERBS) - {"fetch", "doctor"}


@pytest.mark.parametrize("verb", STAGES_INPUTS)
def test_a_missing_input(refused, tmp_path, verb):
    missing = tmp_path / "none.parquet"
    told = refused(*filled(verb, missing, tmp_path))
    assert str(missing) in told and "no such" in told


@pytest.mark.parametrize("verb", STAGES_INPUTS)
def test_a_folder_where_a_file_should_be(refused, tmp_path, verb):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder.parquet").mkdir()
    told = refused(*filled(verb, tmp_path / "folder.parquet", tmp_path))
    assert "folder.parquet" in told
    told = refused(*filled(verb, tmp_path / "folder.jsonl", tmp_path))
    assert "folder.jsonl" in told


@pytest.mark.parametrize("verb", ["decontaminate", "generate", "mutate", "annotate", "train"])
def test_an_empty_dataset(refused, tmp_path, verb):
    """Nothing to work on ends the road with a message, not with an empty result."""
    path = tmp_path / "empty.parquet"
    write_parquet(path, pl.DataFrame(schema=SPANS.types))
    told = refused(*filled(verb, path, tmp_path))
    assert str(path) in told and re.search(r"no (problem|sample|usable|row|record)", told)


@pytest.mark.parametrize("verb", ["train", "weights"])
def test_a_model_that_is_not_there(refused, tmp_path, spans, pairs, verb):
    given = {"train": spans, "weights": pairs}[verb]
    told = refused(*filled(verb, given, tmp_path))
    assert told.startswith("./none: no such model folder; give a folder")


def model_arguments(verb, model, spans, pairs, tmp_path):
    words = filled(verb, {"train": spans, "weights": pairs}[verb], tmp_path)
    return [str(model) if word == "./none" else word for word in words]


@pytest.mark.parametrize("verb", ["train", "weights"])
def test_a_model_without_a_tokenizer(refused, tmp_path, tiny_model, spans, pairs, verb):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    told = refused(*model_arguments(verb, model, spans, pairs, tmp_path))
    assert told.startswith(f"{model}: no tokenizer in this folder")


@pytest.mark.parametrize("verb", ["train", "weights"])
def test_a_tokenizer_without_a_chat_template(refused, tmp_path, tiny_model, spans, pairs, verb):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model, ignore=shutil.ignore_patterns("*.jinja"))
    path = model / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in settings.items() if k != "chat_template"}))
    told = refused(*model_arguments(verb, model, spans, pairs, tmp_path))
    assert told.startswith(f"{model}: the tokenizer has no chat template; name one with template")


def test_a_model_with_pickled_weights_only(refused, tmp_path, tiny_model, spans, pairs):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    told = refused(*model_arguments("weights", model, spans, pairs, tmp_path))
    assert "no weights in safetensors" in told


def test_a_problem_file_without_its_kind(refused, tmp_path):
    told = refused("fetch", "--problems", "release:v1", "--out", tmp_path / "o")
    assert told.startswith("--problems needs --benchmark ")
    assert re.split(", | or ", told.removeprefix("--problems needs --benchmark ")) == [*RELEASED]


def test_a_full_disk(refused, tmp_path, spans, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    told = refused(*filled("annotate", tmp_path / "pairs.parquet", tmp_path))
    assert re.match(r"No space left on device \(.*\)\. Nothing half-written was kept", told)
    assert str(tmp_path) in told


@pytest.mark.skipif(os.geteuid() == 0, reason="not run: root may write everywhere")
def test_a_folder_that_may_not_be_written_to(refused, tmp_path, spans):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    words = filled("annotate", tmp_path / "pairs.parquet", tmp_path)
    told = refused(*[w.replace("o.parquet", "locked/o.parquet") for w in words])
    assert told.startswith(f"Permission denied ({locked}")


def test_a_file_where_a_folder_should_be(refused, tmp_path, spans):
    (tmp_path / "file").touch()
    words = filled("annotate", tmp_path / "pairs.parquet", tmp_path)
    told = refused(*[w.replace("o.parquet", "file/o.parquet") for w in words])
    assert str(tmp_path / "file") in told and "Give another path" in told


def test_other_errors_keep_their_traceback(monkeypatch):
    """They are ours to mend, and the traceback says where."""

    def broken(**values):
        raise OSError("no number")

    monkeypatch.setitem(cli.VERBS, "annotate", cli.VERBS["annotate"]._replace(run=broken))
    with pytest.raises(OSError, match="no number"):
        cli.main(["annotate", "--pairs", "p", "--out", "o", "--report", "r"])


def test_interruption(monkeypatch, fgit):
    def interrupted(**values):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "annotate", cli.VERBS["annotate"]._replace(run=interrupted))
    code, error = fgit("annotate", "--pairs", "p", "--out", "o", "--report", "r")
    assert code == 130
    assert error == "fgit annotate: error: interrupted\n"


def test_sigterm_ends_a_stage_with_a_clear_line(monkeypatch, fgit):
    def stopped(**values):
        raise Stopped("step 12")

    replace_annotate(monkeypatch, stopped)
    code, error = fgit("annotate", "--pairs", "p", "--out", "o", "--report", "r")
    assert code == 143
    told = "fgit annotate: error: stopped by SIGTERM in step 12; start it again to go on\n"
    assert error == told
    with pytest.raises(SystemExit) as caught:  # as where nothing catches it
        raise Stopped("step 12")
    assert caught.value.code == 143


# ------------------------------------------------------------------ under a launcher


def replace_annotate(monkeypatch, run):
    monkeypatch.setitem(cli.VERBS, "annotate", cli.VERBS["annotate"]._replace(run=run))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_first_one_speaks(monkeypatch, fgit, tmp_path, rank):
    """The others leave their message to the launcher, which shows it at the end."""

    def wrong(**values):
        logging.getLogger("fgit.x").info("all is well")
        logging.getLogger("fgit.x").warning("something is odd")
        raise UserError("a.jsonl, row 3: 'x' is empty. Fix the row")

    replace_annotate(monkeypatch, wrong)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    code, error = fgit("annotate", "--pairs", "p", "--out", "o", "--report", "r")
    message = "a.jsonl, row 3: 'x' is empty. Fix the row"
    first = ["all is well", "something is odd", f"fgit annotate: error: {message}"]
    assert code == 1
    assert error.splitlines() == (first if rank == "0" else ["something is odd"])
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    failure = ProcessFailure(
        local_rank=1, pid=1, exitcode=1, error_file=str(tmp_path / "error.json")
    )
    assert f"traceback : {message}\n" in str(ChildFailedError("fgit", {int(rank): failure}))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_first_one_writes_provenance(
    monkeypatch, fgit, tmp_path, pairs, rank
):
    monkeypatch.setenv("RANK", rank)
    replace_annotate(monkeypatch, lambda out, **values: out.touch())
    out = tmp_path / "o.parquet"
    code, error = fgit(*filled("annotate", pairs, tmp_path))
    assert code == 0, error
    assert out.exists()
    assert bool(list(tmp_path.glob("*.provenance.json"))) == (rank == "0")


def test_the_processes_of_a_machine_share_its_threads(monkeypatch, spans, tmp_path):
    import fgit.train.stage

    monkeypatch.setattr(fgit.train.stage, "train", lambda *a, **k: None)
    for cores, there in [("8", "2"), ("2", "8")]:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", there)
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        monkeypatch.setenv("MKL_NUM_THREADS", "5")
        monkeypatch.setenv("RANK", "1")
        words = ["train", "--model", "m", "--spans", str(spans), "--out", str(tmp_path / "out")]
        assert cli.main([*words, "--threads", cores]) == 0
        assert os.environ["OMP_NUM_THREADS"] == str(max(1, int(cores) // int(there)))


def test_several_findings_stand_below_each_other(refused, tmp_path):
    told = refused(
        "train",
        "--model",
        "m",
        "--spans",
        "s",
        "--out",
        tmp_path / "o",
        "--alpha",
        "0",
        "--beta",
        "0",
    )
    assert [line.split(":")[0].strip() for line in told.splitlines()] == ["alpha", "beta"]


def test_user_errors_are_printed_as_they_are(monkeypatch, fgit):
    def wrong(**values):
        raise UserError("a.jsonl, row 3: 'x' is empty. Fix the row")

    monkeypatch.setitem(cli.VERBS, "annotate", cli.VERBS["annotate"]._replace(run=wrong))
    code, error = fgit("annotate", "--pairs", "p", "--out", "o", "--report", "r")
    assert (code, error) == (
        1,
        "fgit annotate: error: a.jsonl, row 3: 'x' is empty. Fix the row\n",
    )


# ------------------------------------------------------------------ provenance


def test_provenance_lies_beside_the_result(fgit, tmp_path, spans):
    found = json.loads((tmp_path / "spans.parquet.provenance.json").read_text())
    assert found["stage"] == "annotate"
    assert found["inputs"] == {
        "pairs": {
            "path": f"{tmp_path}/pairs.parquet",
            "sha256": sha256(tmp_path / "pairs.parquet"),
        }
    }
    assert found["outputs"] == {
        f"{tmp_path}/{name}": sha256(tmp_path / name) for name in ("spans.parquet", "r.json")
    }
    assert found["packages"]["polars"] and found["hardware"]["cores"] >= 1
    assert len(found["code"]["sources_sha256"]) == 64


def test_provenance_of_settings_and_several_inputs(fgit, tmp_path):
    data = written(tmp_path, "data.jsonl", [RECORD])
    problems = [
        written(
            tmp_path,
            f"{name}.jsonl",
            [
                {
                    "task_id": f"{name}/0",
                    "prompt": f"def {name}():\n    '''Long enough to be searched for.'''\n",
                    "entry_point": name,
                    "canonical_solution": "    return 1\n",
                    "contract": "",
                    "test": "assert True",
                    "base_input": [[]],
                    "plus_input": [[]],
                    "atol": 0,
                }
            ],
        )
        for name in ("one", "two")
    ]
    out = tmp_path / "records.parquet"
    code, error = fgit(
        *["decontaminate", "--data", data, "--min-characters", 30],
        *["--benchmark", f"one={problems[0]}", f"two={problems[1]}"],
        *["--out", out, "--report", tmp_path / "report.json"],
    )
    assert code == 0, error
    found = json.loads((tmp_path / "records.parquet.provenance.json").read_text())
    assert found["settings"] == config.DecontaminateSettings(min_characters=30).model_dump()
    assert {name: entry["sha256"] for name, entry in found["inputs"].items()} == {
        "data": sha256(data),
        "benchmark one": sha256(problems[0]),
        "benchmark two": sha256(problems[1]),
    }
    assert found["arguments"] == {"field": {}, "split": "train"}


def test_provenance_of_a_model_folder(fgit, tmp_path, tiny_model, pairs):
    out = tmp_path / "weights.parquet"
    code, error = fgit("weights", "--model", tiny_model, "--pairs", pairs, "--out", out)
    assert code == 0, error
    found = json.loads((tmp_path / "weights.parquet.provenance.json").read_text())
    assert found["inputs"]["model"] == {"path": str(tiny_model), "sha256": digest(tiny_model)}
    assert found["arguments"] == {}
    assert found["settings"]["alpha"] == 2.0
    assert found["packages"]["torch"] and found["packages"]["transformers"]


@pytest.mark.parametrize("variants", [None, Path("variants.parquet")])
def test_models_that_settings_name_are_inputs(variants):
    def inputs(name, settings, **values):
        verb = cli.VERBS[name]
        return cli.inputs_of(verb, dict.fromkeys(verb.flags) | values, settings)

    generating = config.GenerateSettings(teacher="org/teacher")
    read = {"given": variants} if variants else {"teacher": Path("org/teacher")}
    assert inputs("generate", generating, given=variants) == read
    selecting = config.SelectSettings(embedder="org/embedder")
    assert inputs("select", selecting) == {"embedder": Path("org/embedder")}
    assert inputs("gather", None) == {}


def test_no_provenance_of_what_failed(refused, tmp_path):
    path = written(tmp_path, "bad.jsonl", [{"id": "x"}])
    refused(*filled("annotate", path, tmp_path))
    assert not list(tmp_path.glob("*.provenance.json"))


# ------------------------------------------------------------------ inputs and places, beforehand


def test_a_damaged_input_is_put_aside(fgit, tmp_path, spans):
    spans.write_bytes(b"damaged")
    for said in ("It is spans.parquet.damaged now", "put aside (spans.parquet.damaged)"):
        code, error = fgit(*filled("export pairs", spans, tmp_path))
        assert code == 1 and said in error
        assert (tmp_path / "spans.parquet.damaged").read_bytes() == b"damaged"


def test_an_input_that_is_replaced_meanwhile(monkeypatch, refused, tmp_path, spans):
    pairs = tmp_path / "pairs.parquet"
    (tmp_path / "new.parquet").touch()

    def replaced_meanwhile(**values):
        (tmp_path / "new.parquet").rename(pairs)
        (tmp_path / "new.parquet").touch()
        write_parquet(values["out"], pl.DataFrame())

    replace_annotate(monkeypatch, replaced_meanwhile)
    told = refused(*filled("annotate", pairs, tmp_path))
    assert told.startswith(f"{pairs}: it was changed while it was in use")


def names_outputs(verb):
    return any(
        flag.role == "output" and not flag.follows for flag in cli.VERBS[verb].flags.values()
    )


@pytest.mark.parametrize(
    "verb", [verb for verb in STAGES_INPUTS if names_outputs(verb) and verb != "audit kappa"]
)
def test_something_in_the_way_of_an_output_is_told_before_the_work(
    monkeypatch, refused, tmp_path, verb
):
    def too_late(**values):
        raise AssertionError("the work has begun")

    monkeypatch.setitem(cli.VERBS, verb, cli.VERBS[verb]._replace(run=too_late))
    words = filled(verb, written(tmp_path, "in.jsonl", [PAIR]), tmp_path)
    for name in ("o.parquet", "r.json"):
        (tmp_path / name / "of mine").mkdir(parents=True)
    (tmp_path / "d").write_text("a file of mine")
    told = refused(*words)
    assert "of yours is in the way" in told or re.search(r"Not a directory \(.*/d\)", told)


def test_a_model_folder_that_is_a_link_is_looked_at_before_the_work(refused, tmp_path, spans):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/model").symlink_to(base)
    words = filled("train", spans, tmp_path)
    assert re.match(f"{base} .a link leads there from .*/d/model.: a folder of", refused(*words))
    (tmp_path / "d/model").unlink()
    (tmp_path / "d").rmdir()
    (tmp_path / "d").symlink_to("nowhere")
    assert "a link to a folder that is not there; make the folder" in refused(*words)


def test_two_outputs_in_one_place(refused, tmp_path, pairs):
    words = filled("annotate", pairs, tmp_path)
    told = refused(*[word.replace("r.json", "./o.parquet") for word in words])
    assert "two outputs in one place" in told


# ------------------------------------------------------------------ disks


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "a place that you may write to"),
        (errno.EIO, "file server fails"),
        (errno.ESTALE, "file server fails"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.ENOENT, "put it back"),
        (errno.ELOOP, "in a circle"),
        (errno.EBUSY, "another place"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_what_a_disk_says(monkeypatch, refused, tmp_path, pairs, number, advice, kind):
    reason = os.strerror(number)

    def broken(**values):
        raise OSError(number, reason, "/place") if kind is OSError else kind(f"I/O error: {reason}")

    replace_annotate(monkeypatch, broken)
    if kind is RuntimeError and number not in OF_DISKS:
        with pytest.raises(RuntimeError):
            refused(*filled("annotate", pairs, tmp_path))
        return
    told = refused(*filled("annotate", pairs, tmp_path))
    assert told.startswith(f"{reason} (/place). " if kind is OSError else reason) and advice in told


def test_no_place_for_temporary_files(monkeypatch, refused, tmp_path, pairs):
    reason = "No usable temporary directory found in ['/tmp', '/var/tmp']"

    def full(**values):
        raise FileNotFoundError(errno.ENOENT, reason)

    replace_annotate(monkeypatch, full)
    told = refused(*filled("annotate", pairs, tmp_path))
    assert told.startswith(f"{reason}. Nothing half-written was kept; free some space")


# ------------------------------------------------------------------ encodings


@pytest.mark.parametrize("name", [b"\xff.parquet", b"a\xc3", b"\xed\xa0\x80", b"caf\xe9/pairs"])
@pytest.mark.parametrize("flag", ["--pairs", "--out", "--report"])
def test_names_that_are_not_utf8_are_refused(refused, tmp_path, pairs, name, flag):
    words = filled("annotate", pairs, tmp_path)
    words[words.index(flag) + 1] = f"{tmp_path}/{os.fsdecode(name)}"
    assert re.match(r"'.*\\udc..*': not UTF-8. Rename the file or folder", refused(*words))


def test_a_folder_that_is_not_utf8_or_is_gone(monkeypatch, refused, tmp_path, pairs):
    words = filled("annotate", pairs, tmp_path)
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert "not UTF-8" in refused(*words)
    folder.rmdir()
    assert "is gone: change to another" in refused(*words)


@pytest.mark.parametrize("name", ["a\nb", "ä", "p̄′", " ", "-", "'\"$x;", "\u202e", "😀"])
def test_odd_names_that_are_utf8(fgit, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    path = written(folder, "pairs.parquet", [PAIR])
    code, error = fgit(*filled("annotate", path, folder))
    assert code == 0, error
    record = json.loads((folder / "o.parquet.provenance.json").read_text())
    assert record["inputs"]["pairs"]["path"] == str(path)


SAYS = """
import sys; from fgit import cli
def says(**values): print("p̄′ ≥ \\udcff " * 9000)
cli.VERBS["funnel"] = cli.VERBS["funnel"]._replace(run=says)
sys.exit(cli.main(["funnel", "--results", "r"]))
"""


def said(to, **environment):
    words = [sys.executable, "-c", SAYS]
    done = subprocess.run(words, stdout=to, stderr=subprocess.PIPE, env=os.environ | environment)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "cp1252:strict", "utf-8"])
def test_any_encoding_of_the_output(encoding):
    code, output, error = said(subprocess.PIPE, PYTHONIOENCODING=encoding)
    assert (code, error) == (0, "")
    written = output.decode(encoding.partition(":")[0])
    assert written.count("\\udcff") == 9000 and ("p̄′ ≥" in written) == ("utf" in encoding)


def test_an_output_that_nobody_reads_or_that_is_full():
    reading, writing = os.pipe()
    os.close(reading)
    assert said(writing) == (141, None, "")
    os.close(writing)
    with open("/dev/full", "w") as full:
        code, _, error = said(full)
    assert code == 1 and error.startswith("fgit funnel: error: No space left on device")
    assert len(error.splitlines()) == 1
