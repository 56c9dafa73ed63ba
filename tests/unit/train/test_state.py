import errno
import json
import logging
import os
import random
import re
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import accelerate
import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, get_scheduler

from fgit.common import models
from fgit.common.errors import UserError
from fgit.config import TrainSettings
from fgit.train import state as module
from fgit.train.state import State, anywhere, checkpoints, differences

PARAMETERS = {"model": "m", "train": {"alpha": 2.0, "epochs": 1}, "data": "abc"}


class Tied(torch.nn.Module):
    """An embedding whose weight is also the head's."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 4)
        self.inner = torch.nn.Linear(4, 4)
        self.dropout = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.dropout(self.inner(self.embedding(ids))))


class Training:
    """A model, AdamW and a scheduler, prepared as the loop prepares them."""

    def __init__(self, model=None, seed=0):
        torch.manual_seed(seed)
        self.accelerator = accelerate.Accelerator(cpu=True)
        self.causal = model is not None
        model = Tied() if model is None else model
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        scheduler = get_scheduler("cosine", optimizer, 2, 20)
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(
            model, optimizer, scheduler
        )
        self.step = 0

    def train(self, steps):
        losses = []
        for _ in range(steps):
            # Python's, numpy's and torch's random numbers decide the data, and dropout the loss.
            first, second = random.randrange(11), int(np.random.randint(11))
            ids = torch.tensor([[first, second, *torch.randint(11, (3,)).tolist()]])
            output = self.model(ids)
            logits = output.logits if self.causal else output
            loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            self.step += 1
            losses.append(loss.item())
        return losses

    def progress(self):
        return {"step": self.step, "history": [{"loss": 0.1 + 0.2, "weight": None}]}

    def content(self):
        """Every tensor and number of the training, to compare bit for bit."""
        optimizer = self.optimizer.state_dict()
        return {
            "model": self.model.state_dict(),
            "moments": optimizer["state"],
            "groups": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
            "random": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
        }


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor | np.ndarray):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert (one == other).all()
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other or (callable(one) and callable(other))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out" / "state"


@pytest.fixture
def saved(folder):
    """A state folder with checkpoints of steps 2 and 4."""
    training = Training()
    with State(folder, PARAMETERS) as state:
        state.load(training.accelerator)
        for _ in range(2):
            training.train(2)
            state.save(training.accelerator, training.progress())
    return folder


def loaded(folder, parameters=PARAMETERS):
    training = Training()
    with State(folder, parameters) as state:
        return state.load(training.accelerator)


# ------------------------------------------------------------------ precision


def test_a_training_that_goes_on_keeps_what_it_began_in(folder, monkeypatch):
    auto = {"train": {"precision": "auto"}}
    training = Training()
    monkeypatch.setattr(models, "computes_bf16", lambda on=None: True)
    with State(folder, auto) as state:
        assert state.settled(TrainSettings()).precision == "bf16"
        state.load(training.accelerator)
        training.train(2)
        state.save(training.accelerator, training.progress())
    monkeypatch.setattr(models, "computes_bf16", lambda on=None: False)
    with State(folder, auto) as state:
        assert state.settled(TrainSettings()).precision == "bf16"
        assert state.load(Training().accelerator)["step"] == 2
    with State(folder, auto) as state:
        assert state.settled(TrainSettings(precision="fp32")).precision == "fp32"
        with pytest.raises(UserError, match=r"train\.precision: bf16 → fp32"):
            state.load(Training().accelerator)
    (folder / "step-000002" / "manifest.json").write_text("{")
    with State(folder, auto) as state:
        assert state.settled(TrainSettings()).precision == "fp32"


# ------------------------------------------------------------------ what is restored


def test_a_training_goes_on_bit_for_bit(folder):
    first = Training(seed=1)
    with State(folder, PARAMETERS) as state:
        assert state.load(first.accelerator) is None
        first.train(3)
        state.save(first.accelerator, first.progress())
        losses = first.train(4)
    second = Training(seed=2)
    second.train(1)
    with State(folder, PARAMETERS) as state:
        assert state.load(second.accelerator) == {
            "step": 3,
            "history": [{"loss": 0.1 + 0.2, "weight": None}],
        }
        second.step = 3
        assert second.train(4) == losses
    before = second.content()
    assert_same(before["model"], first.model.state_dict())
    assert_same(before["moments"], first.optimizer.state_dict()["state"])
    assert_same(before["groups"], first.optimizer.state_dict()["param_groups"])
    assert_same(before["scheduler"], first.scheduler.state_dict())
    assert second.model.head.weight is second.model.embedding.weight


def test_everything_is_as_it_was_saved(folder):
    training = Training()
    with State(folder, PARAMETERS) as state:
        training.train(3)
        state.save(training.accelerator, training.progress())
        before = training.content()
        before["model"] = {name: tensor.clone() for name, tensor in before["model"].items()}
        before["moments"] = {
            number: {name: tensor.clone() for name, tensor in moments.items()}
            for number, moments in before["moments"].items()
        }
    other = Training(seed=5)
    other.train(5)
    with State(folder, PARAMETERS) as state:
        state.load(other.accelerator)
    after = other.content()
    after["model"], before["model"] = dict(after["model"]), dict(before["model"])
    assert_same(after, before)


def test_tied_embeddings_of_a_language_model(folder, tiny_model):
    def load():
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        return Training(model)

    first = load()
    with State(folder, PARAMETERS) as state:
        first.train(2)
        state.save(first.accelerator, first.progress())
        losses = first.train(2)
    second = load()
    with State(folder, PARAMETERS) as state:
        state.load(second.accelerator)
        assert second.train(2) == losses
    assert_same(second.model.state_dict(), first.model.state_dict())
    assert second.model.lm_head.weight is second.model.model.embed_tokens.weight
    # It is kept once.
    names = json.loads(
        (folder / "step-000002" / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}"
    )
    assert ("lm_head.weight" in names) != ("model.embed_tokens.weight" in names)


def test_no_code_is_run_by_what_is_read(saved, monkeypatch):
    read = []
    before = torch.load

    def load(file, *arguments, **options):
        read.append((Path(file).name, options.get("weights_only")))
        return before(file, *arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    assert loaded(saved) is not None
    assert sorted(read) == [
        ("optimizer.bin", True),
        ("random_states_0.pkl", True),
        ("scheduler.bin", True),
    ]
    assert (saved / "step-000004" / "model.safetensors").exists()


# ------------------------------------------------------------------ which checkpoint


def test_the_newest_two_are_kept(folder):
    training = Training()
    with State(folder, PARAMETERS) as state:
        for _ in range(4):
            training.train(1)
            state.save(training.accelerator, training.progress())
            assert len(checkpoints(folder)) == min(training.step, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000003", "step-000004"]


def test_nothing_is_written_twice(saved):
    training = Training()
    with State(saved, PARAMETERS) as state:
        progress = state.load(training.accelerator)
        manifest = saved / "step-000004" / "manifest.json"
        before = manifest.stat().st_mtime_ns
        state.save(training.accelerator, progress)
        assert manifest.stat().st_mtime_ns == before


def truncate(file):
    os.truncate(file, file.stat().st_size - 1)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("manifest.json", os.remove, "manifest.json is missing"),
        ("manifest.json", truncate, "manifest.json is not readable JSON"),
        ("manifest.json", lambda file: file.write_text("[]"), "manifest.json is not as it was"),
        ("manifest.json", lambda file: file.write_text('{"a": 1}'), "manifest.json is not as it"),
        ("model.safetensors", os.remove, "model.safetensors is missing"),
        ("model.safetensors", truncate, r"model.safetensors has \d+ bytes, not \d+"),
        ("model.safetensors", flip, "model.safetensors is not as it was written"),
        ("optimizer.bin", truncate, r"optimizer.bin has \d+ bytes, not \d+"),
        ("optimizer.bin", flip, "optimizer.bin is not as it was written"),
        ("random_states_0.pkl", flip, "random_states_0.pkl is not as it was written"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(saved, caplog, name, damage, reason):
    damage(saved / "step-000004" / name)
    with caplog.at_level(logging.WARNING):
        assert loaded(saved)["step"] == 2
    assert caplog.text.count("is not whole") == 1
    pattern = rf".*step-000004 is not whole: {reason}.*; using the one before it"
    assert [line for line in caplog.messages if re.match(pattern, line)]


def test_each_byte_of_a_manifest_counts(saved):
    file = saved / "step-000004" / "manifest.json"
    content = file.read_bytes()
    for place in random.Random(0).sample(range(len(content)), 60):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            manifest = module.read_manifest(file.parent)
        except module.NotWhole:
            continue
        assert manifest == json.loads(content)["manifest"], place  # only the layout changed


def test_none_is_whole(saved, caplog):
    for checkpoint in checkpoints(saved):
        truncate(checkpoint / "optimizer.bin")
    with caplog.at_level(logging.WARNING):
        assert loaded(saved) is None
    assert "step-000004 is not whole" in caplog.messages[0]
    assert caplog.messages[0].endswith("using the one before it")
    assert "step-000002 is not whole" in caplog.messages[1]
    assert caplog.messages[1].endswith("starting anew")


def test_one_that_is_not_whole_makes_way(saved):
    """The training goes on from step 2, and comes by step 4 once more."""
    truncate(saved / "step-000004" / "optimizer.bin")
    training = Training()
    with State(saved, PARAMETERS) as state:
        training.step = state.load(training.accelerator)["step"]
        training.train(1)
        state.save(training.accelerator, training.progress())
        assert [path.name for path in checkpoints(saved)] == ["step-000002", "step-000003"]
    assert loaded(saved)["step"] == 3


def test_one_that_is_not_whole_is_written_anew(saved):
    truncate(saved / "step-000004" / "optimizer.bin")
    training = Training()
    with State(saved, PARAMETERS) as state:
        training.step = state.load(training.accelerator)["step"]
        training.train(2)
        state.save(training.accelerator, training.progress())
    assert loaded(saved)["step"] == 4


def test_what_a_killed_process_left_is_cleared(saved):
    (saved / ".step-000006.4242.tmp").mkdir()
    (saved / ".step-000006.4242.tmp" / "optimizer.bin").write_bytes(b"half")
    assert loaded(saved)["step"] == 4
    assert not list(saved.glob(".*"))


# ------------------------------------------------------------------ parameters


def test_parameters_must_be_the_same(saved):
    other = {"model": "m", "train": {"alpha": 3.0, "epochs": 1, "seed": 1}}
    with pytest.raises(UserError) as raised:
        loaded(saved, other)
    lines = str(raised.value).splitlines()
    assert lines[1:4] == [
        "  train.alpha: 2.0 → 3.0",
        "  data: abc → not set",
        "  train.seed: not set → 1",
    ]
    assert f"delete {saved}" in lines[4]
    assert len(checkpoints(saved)) == 2


def test_parameters_that_json_changes(folder):
    training = Training()
    parameters = {"betas": (0.9, 0.999), "train": {"revision": None}}
    with State(folder, parameters) as state:
        state.save(training.accelerator, training.progress())
    assert loaded(folder, parameters)["step"] == 0


def test_another_format(saved, monkeypatch):
    monkeypatch.setattr(module, "VERSION", 3)
    with pytest.raises(UserError, match=r"of format 2, and this version of FGit reads format 3"):
        loaded(saved)


def test_another_layout(saved, monkeypatch):
    monkeypatch.setattr(module, "layout", lambda accelerator: "several, DDP")
    with pytest.raises(UserError, match="launch: one → several, DDP"):
        loaded(saved)


def test_samples_go_with_a_checkpoint(folder):
    """A process that goes on has those that were noted before; without any it has none."""
    training = Training()
    noted = pl.DataFrame({"id": ["a"], "weight": [0.1]}, schema={"id": str, "weight": pl.Float32})
    with State(folder, PARAMETERS) as state:
        assert state.load(training.accelerator) is None
        assert state.samples() is None
        state.save(training.accelerator, training.progress(), samples=noted)
    with State(folder, PARAMETERS) as state:
        state.load(training.accelerator)
        assert state.samples().equals(noted)
        training.train(1)
        state.save(training.accelerator, training.progress())
        assert state.samples() is None


def test_samples_that_do_not_fit_cost_the_checkpoint_only(folder, monkeypatch, caplog):
    training = Training()
    with State(folder, PARAMETERS) as state:
        state.load(training.accelerator)

        def full(path, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", full)
        state.save(training.accelerator, training.progress(), samples=pl.DataFrame({"id": ["a"]}))
        assert "No space left on device" in caplog.text
        assert checkpoints(folder) == []


def test_differences():
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": None}, {}) == ["a: None → not set"]
    assert differences({"a": {"b": 1}}, {"a": 1}) == ["a.b: 1 → not set", "a: not set → 1"]


# ------------------------------------------------------------------ when it cannot be written


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["fsync", "save_state", "rename"])
@pytest.mark.parametrize("older", [True, False])
def test_full_disk(folder, monkeypatch, caplog, place, older):
    training = Training()
    with State(folder, PARAMETERS) as state:
        if older:
            training.train(1)
            state.save(training.accelerator, training.progress())
        training.train(1)
        with monkeypatch.context() as patch:
            if place == "fsync":
                patch.setattr(os, "fsync", no_space)
            elif place == "rename":
                patch.setattr("pathlib.Path.rename", no_space)
            else:
                patch.setattr(training.accelerator, "save_state", no_space)
            with caplog.at_level(logging.WARNING):
                state.save(training.accelerator, training.progress())
            (message,) = caplog.messages
            assert str(folder) in message
            assert "No space left on device" in message
            assert "GB are free" in message
            assert ("step 1" if older else "the start") in message
            assert [path.name for path in folder.iterdir()] == (["step-000001"] if older else [])
            with pytest.raises(UserError, match="No space left on device") as raised:
                state.save(training.accelerator, training.progress(), required=True)
            assert str(folder) in str(raised.value)
            assert not list(folder.glob(".*"))
        # Space was made: the training, which went on, is saved.
        state.save(training.accelerator, training.progress())
    assert loaded(folder)["step"] == training.step


@pytest.mark.parametrize("limit", [500, 1500, 4000])
def test_files_that_may_not_grow(saved, caplog, limit):
    """A real failure of each writer: the size of files is limited, and torch says little of it."""
    training = Training()
    with State(saved, PARAMETERS) as state:
        training.step = state.load(training.accelerator)["step"]
        training.train(1)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            state.save(training.accelerator, training.progress())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "no checkpoint of step 5" in caplog.messages[-1]
        assert sorted(p.name for p in saved.iterdir()) == ["step-000002", "step-000004"]
    assert loaded(saved)["step"] == 4


def test_other_errors_are_not_hidden(folder, monkeypatch):
    training = Training()
    with State(folder, PARAMETERS) as state:
        monkeypatch.setattr(training.accelerator, "save_state", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            state.save(training.accelerator, training.progress())
    assert not folder.exists()


def test_after_a_failure_it_is_not_due_at_once(folder, monkeypatch):
    training = Training()
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with State(folder, PARAMETERS) as state:
        state.load(training.accelerator)
        assert state.due(0)
        assert not state.due(15)
        clock[0] += 15 * 60
        assert state.due(15)
        monkeypatch.setattr(training.accelerator, "save_state", no_space)
        state.save(training.accelerator, training.progress())
        assert not state.due(15)


# ------------------------------------------------------------------ one at a time

HOLDER = """
    import sys
    from pathlib import Path
    from fgit.train.state import State
    with State(Path(sys.argv[1]), {}):
        print("locked", flush=True)
        sys.stdin.read()
"""


def test_two_processes_never_share_a_folder(folder, monkeypatch):
    monkeypatch.setattr("fgit.common.lock.job_state", lambda job: ("RUNNING", None))
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SLURM_JOB_ID": "77"},
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        name = f"in use by process {holder.pid} of .*, SLURM job 77"
        with pytest.raises(UserError, match=name), State(folder, {}):
            pass
        assert folder.exists()
        holder.kill()  # the lock goes with the process
    with State(folder, {}), pytest.raises(UserError, match=f"process {os.getpid()}"):
        State(folder, {}).__enter__()


def test_the_lock_outlives_the_folder(folder):
    """The one who waits for it finds the training done, results and all."""
    with State(folder, {}) as first:
        first.remove()
        assert not folder.exists()
        with pytest.raises(UserError, match="in use by"), State(folder, {}):
            pass
    assert list(folder.parent.iterdir()) == []
    with State(folder, {}):
        pass


def test_a_state_that_another_took_over_is_left_to_it(folder):
    """As when a node that was cut off comes back after its job was started again."""
    training = Training()
    with pytest.raises(UserError, match="has taken it over"), State(folder, PARAMETERS) as state:
        state.load(training.accelerator)
        training.train(1)
        state.lock.path.unlink()
        with State(folder, PARAMETERS) as other:
            other.load(training.accelerator)
            other.save(training.accelerator, training.progress())
            training.train(1)
            with pytest.raises(UserError, match="has taken it over"):
                state.save(training.accelerator, training.progress())
        state.remove()
    assert [path.name for path in checkpoints(folder)] == ["step-000001"]


def test_nothing_is_left_where_nothing_was_saved(folder):
    with pytest.raises(UserError, match="mine"), State(folder, {}):
        raise UserError("mine")
    assert not folder.exists()


# ------------------------------------------------------------------ several processes

SEVERAL = """
    import logging, os, sys
    from pathlib import Path
    import accelerate, torch
    from fgit.common.errors import UserError
    from fgit.train.state import State, anywhere

    logging.basicConfig(level=logging.WARNING)
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    with State(folder, {}):  # before accelerate knows of its processes, as the stage does it
        assert torch.distributed.get_world_size() == 2
    accelerator = accelerate.Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    rank = accelerator.process_index
    assert accelerator.num_processes == 2
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)

    def train(steps):
        losses = []
        for _ in range(steps):
            loss = model(torch.randn(2, 3)).square().mean()
            accelerator.backward(loss)
            optimizer.step(), scheduler.step(), optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    assert anywhere(rank == 1) and not anywhere(False)
    torch.manual_seed(rank)
    with State(folder, {"a": 1}) as state:
        assert state.load(accelerator) is None
        train(2)
        state.save(accelerator, {"step": 2})
        after = train(2)
        # A failure on one process only is a failure of all.
        write = accelerator.save_state
        def full(path):
            write(path)
            if rank == 1:
                raise OSError(28, "No space left on device")
        accelerator.save_state = full
        state.save(accelerator, {"step": 4})
        try:
            state.save(accelerator, {"step": 4}, required=True)
        except UserError as error:
            assert "goes on from step 2" in str(error), error
        else:
            raise AssertionError
        accelerator.save_state = write
        assert state.due(0) and not state.due(60)
        # The main process alone asks for the lock, and its refusal is everyone's.
        try:
            State(folder, {"a": 1}).__enter__()
        except UserError as error:
            assert "in use by process" in str(error), error
        else:
            raise AssertionError
    torch.manual_seed(7)
    with State(folder, {"a": 1}) as state:
        assert state.load(accelerator) == {"step": 2}
        assert train(2) == after, (rank, after)
    try:
        with State(folder, {"a": 2}) as state:
            state.load(accelerator)
    except UserError as error:
        assert "a: 1 → 2" in str(error), error
    else:
        raise AssertionError
    accelerator.wait_for_everyone()
    with State(folder, {"a": 1}) as state:
        state.remove()
    print("done", rank, flush=True)
    accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_of_one_training(folder):
    script = folder.parents[1] / "several.py"
    script.write_text(textwrap.dedent(SEVERAL))
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", str(script), str(folder)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(run.stdout.split("\n")[:2]) == ["done 0", "done 1"]
    assert run.stderr.count("no checkpoint of step 4") == 1
    assert not folder.exists()


def test_alone_one_speaks_for_all():
    assert anywhere(True)
    assert not anywhere(False)
