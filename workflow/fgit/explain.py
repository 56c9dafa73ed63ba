"""``fgit explain``: where a run's numbers come from, as text or JSON."""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fgit.common.errors import UserError
from fgit.common.files import existing
from fgit.common.provenance import code_text, hardware_text
from fgit.lineage import CHANGED, File, Lineage, RecordedStep
from fgit.steps import CANONICAL_RUN

ByBenchmark = Mapping[str, list[RecordedStep]]  # the steps behind each number
FACTS: dict[str, Callable[[RecordedStep], dict[str, str]]] = {  # what many steps have alike
    "code": lambda step: {"": code_text(step.code)},
    "packages": lambda step: step.packages,
    "hardware": lambda step: {"": hardware_text(step.hardware)},
}


def explain(
    results: Path, run: str, benchmark: str | None, *, hashes: bool = False, as_json: bool = False
) -> None:
    """Print the chains of a run's numbers, one for each benchmark.

    Raises:
        UserError: if there is no such run or benchmark (naming those that there are), or, after
            printing, if files changed since the next step read them.
    """
    runs = benchmarks_by_run(existing(results))
    if run not in runs:
        raise UserError(
            f"{results}: no run {run!r} in it; "
            + (f"it has: {', '.join(runs)}" if runs else "nothing was trained or evaluated yet")
        )
    benchmarks = runs[run] if benchmark is None else [benchmark]
    if benchmark is not None and benchmark not in runs[run]:
        names = ", ".join(runs[run]) or "none yet"
        raise UserError(f"{results}: {run} was not evaluated on {benchmark!r}, but on: {names}")
    lineage = Lineage(results, hashes)
    chains = {name: lineage.behind(run, name) for name in benchmarks or [""]}
    identities = {name: lineage.identity(run, name) for name in chains}
    print(to_json(run, chains, identities) if as_json else to_text(run, chains, identities))
    if changed := changed_files(chains):
        raise UserError(
            f"{', '.join(changed)}: changed since the run read or wrote it; the numbers are those "
            "of what it was before. Put it back, or let snakemake make again what rests on it"
        )


def benchmarks_by_run(results: Path) -> dict[str, list[str]]:
    """The benchmarks on which each run was evaluated, by the run's name."""
    runs: dict[str, set[str]] = defaultdict(set)
    for pattern in ("score/**/summary.json", "evaluate/**/samples.jsonl"):
        for file in results.glob(pattern):
            *run, benchmark = file.relative_to(results).parts[1:-1]
            if run and run != [CANONICAL_RUN]:
                runs["/".join(run)].add(benchmark)
    for file in results.glob("train/**/run.yaml"):
        runs.setdefault("/".join(file.relative_to(results).parts[1:-1]), set())
    return {run: sorted(benchmarks) for run, benchmarks in sorted(runs.items())}


def changed_files(chains: ByBenchmark) -> list[str]:
    files = (
        file
        for steps in chains.values()
        for step in steps
        for file in (*step.inputs, *step.outputs)
    )
    return list(dict.fromkeys(file.path for file in files if file.state == CHANGED))


def to_json(run: str, chains: ByBenchmark, identities: Mapping[str, str]) -> str:
    values = {
        "run": run,
        "benchmarks": {
            name: {
                "provenance": identities[name] or None,
                "steps": [dataclasses.asdict(step) for step in steps],
            }
            for name, steps in chains.items()
        },
        "changed": changed_files(chains),
    }
    return json.dumps(values, indent=2, ensure_ascii=False)


def to_text(run: str, chains: ByBenchmark, identities: Mapping[str, str]) -> str:
    """The chains as trees: under each step what it read, and under that the step that wrote it.

    Code, packages and hardware that most steps share are named once, and others with their steps.
    """
    distinct = {step.name: step for steps in chains.values() for step in steps}
    recorded = [step for step in distinct.values() if step.provenance]
    usual = {kind: most_common(map(of, recorded)) for kind, of in FACTS.items()}
    lines = [run]
    for kind, values in usual.items():
        if values:
            lines.append(f"  {kind + ':':10}{text_of(values)}")
    printed: set[str] = set()
    for benchmark, steps in chains.items():
        provenance = f"  provenance {identities[benchmark]}" if identities[benchmark] else ""
        lines += ["", f"{benchmark or '(not evaluated yet)'}{provenance}"]
        lines += step_lines(distinct, steps[-1], usual, printed)
    return "\n".join(lines)


def step_lines(
    steps: Mapping[str, RecordedStep],
    step: RecordedStep,
    usual: Mapping[str, dict[str, str]],
    printed: set[str],
) -> list[str]:
    """A step's lines; a step that was printed before is only named."""
    if step.name in printed:
        return [f"{step.stage}: see above"]
    printed.add(step.name)
    if step.provenance is None:
        return [f"{step.stage}: no provenance; nothing is known of how this was made"]
    job = f", SLURM job {step.slurm_job}" if step.slurm_job else ""
    lines = [f"{step.stage} · {step.started} · {step.seconds:.1f} s{job}"]
    for kind, of in FACTS.items():
        own = {name: v for name, v in of(step).items() if usual[kind].get(name) != v}
        if own:
            lines.append(f"│ {kind}: {text_of(own)}")
    for kind, values in {"settings": step.settings, "flags": step.arguments}.items():
        if text := text_of(values):
            lines.append(f"│ {kind}: {text}")
    lines += [f"│ hub: {name} {text_of(about)}" for name, about in step.models.items()]
    lines += [f"│ wrote {file_text(file)}" for file in step.outputs]
    for number, file in enumerate(step.inputs, start=1):
        last = number == len(step.inputs)
        lines.append(f"{'└' if last else '├'}─ {file.name}: {file_text(file)}")
        if file.step is not None:
            below = step_lines(steps, steps[file.step], usual, printed)
            lines += [f"{' ' if last else '│'}  {line}" for line in below]
    return lines


def most_common(facts: Iterable[dict[str, str]]) -> dict[str, str]:
    """The most frequent value of each name (of two, the first seen)."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for values in facts:
        for name, value in values.items():
            counts[name][value] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in counts.items()}


def file_text(file: File) -> str:
    parts = [file.path, file.sha256[:12] if file.sha256 else "", f"({file.state})"]
    return " ".join(part for part in parts if part not in ("", "()"))


def text_of(values: Mapping[str, Any]) -> str:
    """Names and values, but for those that are not set."""
    pairs = [(name, value) for name, value in values.items() if value is not None]
    return ", ".join(f"{name} {value_text(value)}".strip() for name, value in pairs)


def value_text(value: Any) -> str:
    plain = isinstance(value, str) and value and value.isprintable()
    return value if plain else json.dumps(value, ensure_ascii=False)
