"""What the data's stages cost at the paper's scale, beside the plain way of doing the same.

    python tests/speed/data_stages.py --json data_stages.json --chart data_stages.svg

See --help for how it is measured and what is written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import Levenshtein
import polars as pl
import psutil

from fgit.annotate import Span
from fgit.common.errors import UserError
from fgit.common.files import write_json, write_jsonl, write_parquet, write_text
from fgit.common.provenance import code_version, hardware, package_versions
from fgit.common.tokenizers import load_tokenizer
from fgit.masks import token_masks
from tests.conftest import SMOLLM2
from tests.speed import peers, synthetic

Figures = tuple[Mapping[str, float | None], dict[str, Any]]  # at the top level; of each turn

CORES = 2
HUNDRED_THOUSAND = 100_000
MEMORY_SECONDS = 0.2  # between two looks at the memory
BATCH = 256  # texts that are tokenized at a time
SIDES = ("response", "variant")
SPANS = tuple(f"{side}_{what}" for side in SIDES for what in ("lines", "characters"))

DESCRIPTION = """\
Measure decontaminate, annotate and the token masks on synthetic data made of real instructions and
code (synthetic.py), in turns, each beside the plain way, on two cores of this machine:

  decontaminate  the whole command against HumanEval, MBPP and BigCodeBench, with the memory of the
                 process and all its children (proportional set sizes, looked at every 0.2 s),
                 beside Magicoder's way (peers.py: each string tested in each sample, one process)
                 on the first --part samples. One sample in 1,000 holds a benchmark's text,
                 verbatim; the benchmark fails if one of these is kept.
  annotate       the whole command, start of Python included, beside difflib over the lines and
                 Levenshtein operations within each changed block in a loop, one process, on the
                 first --part pairs. The benchmark fails if a span differs.
  masks          fgit.masks beside the tokenizer alone on the same texts, with one core and with
                 two, and beside a loop over texts, tokens and spans with one core. They take turns
                 batch by batch. The benchmark fails if a mask of the first --part texts differs."""

EPILOG = """\
written to --json:
  decontaminate_seconds_100k  with --mode strict --threads 2; null if --sizes has no 100000
  decontaminate_peak_gb       the highest of all turns at the largest size, likewise
  decontaminate_speedup       Magicoder's seconds a sample (one process) over the command's at the
                              largest size (two processes); ..._per_core: with --threads 1;
                              ..._paper, ..._paper_per_core: with --mode paper
  annotate_pairs_per_s        with --threads 2
  annotate_speedup            over the plain way's pairs per second (one process)
  masks_over_tokenizer        the tokenizer's seconds over those of the masks, both with two cores;
                              ..._one_core: both with one
  masks_speedup               the plain way's seconds over those of the masks, both with one core
  decontaminate, annotate, masks  what each turn measured, with sizes and processes
  and packages, code, hardware, command. All figures but the peak are medians over the turns."""


@dataclasses.dataclass
class Cost:
    """What a command took: seconds, and the highest memory of all its processes in bytes."""

    seconds: float = 0.0
    peak: int = 0


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    given = parser.parse_args(argv)
    if given.chart and "decontaminate" not in given.only:
        parser.error("--chart shows decontaminate, which --only leaves out")
    try:
        with tempfile.TemporaryDirectory() as folder, on_cores(CORES):
            result = measure(given, Path(folder))
        write_json(given.json, result)
        if given.chart:
            write_text(given.chart, chart(result["decontaminate"]))
    except UserError as error:
        print(f"data_stages.py: error: {error}", file=sys.stderr)
        return 1
    for name, value in result.items():
        if isinstance(value, int | float):
            print(f"{name} {value:.3g}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    add("--data", type=Path, default=synthetic.DATA, metavar="DIR", help="the real data")
    add("--chart", type=Path, metavar="FILE", help="an SVG of time and memory by samples")
    add("--sizes", type=int, nargs="+", default=[10_000, 30_000, HUNDRED_THOUSAND], metavar="N")
    add("--pairs", type=int, default=40_000, metavar="N", help="to annotate (default: 40000)")
    add("--texts", type=int, default=4000, metavar="N", help="to mask (default: 4000)")
    add(
        "--part",
        type=int,
        default=2000,
        metavar="N",
        help="for the plain ways of the first two, and to compare (default: 2000)",
    )
    add("--turns", type=int, default=3, metavar="N", help="default: 3")
    add(
        "--only",
        nargs="+",
        choices=STAGES,
        default=[*STAGES],
        metavar="STAGE",
        help=", ".join(STAGES),
    )
    return parser


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What is written to --json."""
    if not given.data.is_dir():
        raise UserError(
            f"{given.data}: no such folder; name the real data with --data or FGIT_SHARED_DATA"
        )
    figures: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    for name, stage in STAGES.items():
        if name in given.only:
            found, details[name] = stage(given, folder)
            figures.update(found)
    return {
        **figures,
        **details,
        "cores": CORES,
        "packages": package_versions(),
        "code": code_version(),
        "hardware": hardware(),
        "command": sys.argv,
    }


# ------------------------------------------------------------------ decontaminate


def decontaminate(given: argparse.Namespace, folder: Path) -> Figures:
    """The figures of decontaminate, and what was measured."""
    benchmarks = synthetic.problem_files(given.data)
    problems = synthetic.problems(given.data)
    planted = synthetic.to_plant(problems)
    real = clean(synthetic.gpteacher(given.data), benchmarks, folder)
    sizes = sorted(given.sizes)
    files = {size: folder / f"{size}.jsonl" for size in sizes}
    for size, path in files.items():
        write_jsonl(path, synthetic.samples(real, planted, size))
    part = list(synthetic.samples(real, planted, min(given.part, sizes[-1])))
    texts = peers.magicoder_texts(problems)
    # What is run in each turn: samples, mode, processes.
    plan = [(size, "strict", CORES) for size in sizes]
    plan += [(sizes[-1], "strict", 1), (sizes[-1], "paper", CORES), (sizes[-1], "paper", 1)]
    runs: list[dict[str, Any]] = []
    magicoder: list[float] = []
    for turn in range(1, given.turns + 1):
        for size, mode, processes in plan:
            cost, removed = run_decontaminate(files[size], benchmarks, folder, mode, processes)
            planted_here = planted_in(size)
            if missed := planted_here - removed:
                raise UserError(
                    f"decontaminate --mode {mode} of {size} samples kept {len(missed)} that hold a "
                    f"benchmark's text: {', '.join(sorted(missed))}"
                )
            what = {"turn": turn, "samples": size, "mode": mode, "processes": processes}
            took = {"seconds": round(cost.seconds, 3), "peak_gb": round(cost.peak / 1e9, 3)}
            counts = {"planted": len(planted_here), "others_removed": len(removed - planted_here)}
            runs.append({**what, **took, **counts})
            print(f"turn {turn}: decontaminate {runs[-1]}", flush=True)
        started = time.perf_counter()
        found = [sample["id"] for sample in part if peers.magicoder_removes(sample, texts)]
        magicoder.append(round(time.perf_counter() - started, 3))
        print(f"turn {turn}: Magicoder's way {magicoder[-1]} s", flush=True)
    theirs = statistics.median(magicoder) / len(part)
    characters = [len(sample["instruction"]) + len(sample["response"]) for sample in part]
    return decontaminate_figures(runs, theirs), {
        "by_size": [
            {"samples": size, "megabytes": round(files[size].stat().st_size / 1e6, 1)}
            | by_size(runs, size)
            for size in sizes
        ],
        "characters_per_sample": statistics.mean(characters),
        "runs": runs,
        "magicoder": {
            "samples": len(part),
            "strings": len(texts),
            "processes": 1,
            "seconds": magicoder,
            "milliseconds_per_sample": 1e3 * theirs,
            "removed": len(found),
        },
    }


def decontaminate_figures(
    runs: Sequence[Mapping[str, Any]], theirs: float
) -> dict[str, float | None]:
    """The figures at the top level.

    Args:
        theirs: Magicoder's seconds a sample.
    """
    largest = max(run["samples"] for run in runs)

    def speedup(mode: str, processes: int) -> float:
        seconds = median_of(runs, "seconds", samples=largest, mode=mode, processes=processes)
        return theirs * largest / seconds

    wanted = {"samples": HUNDRED_THOUSAND, "mode": "strict", "processes": CORES}
    measured = any(wanted.items() <= run.items() for run in runs)
    wanted_peak = wanted | {"samples": largest}
    return {
        "decontaminate_seconds_100k": median_of(runs, "seconds", **wanted) if measured else None,
        "decontaminate_peak_gb": max(
            run["peak_gb"] for run in runs if wanted_peak.items() <= run.items()
        ),
        "decontaminate_speedup": speedup("strict", CORES),
        "decontaminate_speedup_per_core": speedup("strict", 1),
        "decontaminate_speedup_paper": speedup("paper", CORES),
        "decontaminate_speedup_paper_per_core": speedup("paper", 1),
    }


def by_size(runs: Sequence[Mapping[str, Any]], size: int) -> dict[str, float]:
    """Seconds and peak memory with so many samples, and seconds for each of them."""
    wanted = {"samples": size, "mode": "strict", "processes": CORES}
    seconds = median_of(runs, "seconds", **wanted)
    return {
        "seconds": seconds,
        "milliseconds_per_sample": 1e3 * seconds / size,
        "peak_gb": median_of(runs, "peak_gb", **wanted),
    }


def planted_in(size: int) -> set[str]:
    """The ids of the contaminated samples among so many."""
    return {f"s{number}" for number in range(size) if synthetic.is_planted(number)}


def clean(
    real: list[dict[str, str]], benchmarks: Mapping[str, Path], folder: Path
) -> list[dict[str, str]]:
    """The samples that decontaminate keeps, so that it later removes hardly more than is planted.

    A few others remain: several pieces of a sample may share words with one solution. The rule of
    mode ``paper`` has no lower limit of length, so some short solutions stand in more samples.
    """
    write_jsonl(folder / "real.jsonl", real)
    _, removed = run_decontaminate(folder / "real.jsonl", benchmarks, folder, "strict", CORES)
    return [sample for sample in real if sample["id"] not in removed]


def run_decontaminate(
    data: Path, benchmarks: Mapping[str, Path], folder: Path, mode: str, processes: int
) -> tuple[Cost, set[str]]:
    """Run the whole command; what it took, and the ids that it removed."""
    out = folder / "clean.parquet"
    flags: list[Any] = ["--data", data, "--mode", mode, "--threads", processes]
    flags += ["--benchmark", *(f"{name}={path}" for name, path in benchmarks.items())]
    flags += ["--out", out, "--report", folder / "report.json"]
    cost = run(["decontaminate", *flags], folder / "log")
    given = pl.scan_ndjson(data).select("id").collect()["id"]
    return cost, set(given) - set(pl.read_parquet(out, columns=["id"])["id"])


def run(arguments: Sequence[Any], log: Path) -> Cost:
    """Run a stage as a command.

    Raises:
        UserError: with the end of what it printed, if it fails.
    """
    command = [sys.executable, "-m", "fgit", *map(str, arguments)]
    cost = Cost()
    ended = threading.Event()
    with open(log, "wb") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        watch = threading.Thread(target=watch_memory, args=(process.pid, cost, ended))
        watch.start()
        try:
            code = process.wait()
            cost.seconds = time.perf_counter() - started
        finally:
            ended.set()
            watch.join()
    if code:
        raise UserError(f"{' '.join(command)}\n{log.read_text(errors='replace')[-3000:]}")
    return cost


def watch_memory(process: int, cost: Cost, ended: threading.Event) -> None:
    """Note the highest sum of the proportional set sizes of a process and all its children."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        while not ended.wait(MEMORY_SECONDS):
            total = 0
            for one in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += one.memory_full_info().pss
            cost.peak = max(cost.peak, total)


# ------------------------------------------------------------------ annotate


def annotate(given: argparse.Namespace, folder: Path) -> Figures:
    """The figures of annotate, and what was measured."""
    pairs = pl.DataFrame(list(real_pairs(given.data, given.pairs)))
    source, out = folder / "pairs.parquet", folder / "spans.parquet"
    write_parquet(source, pairs)
    part = list(pairs.head(given.part).select(SIDES).iter_rows())
    seconds: dict[str, list[float]] = {"fgit": [], "plain": []}
    for turn in range(given.turns):
        flags = ["--pairs", source, "--out", out, "--report", folder / "report.json"]
        cost = run(["annotate", *flags, "--threads", CORES], folder / "log")
        seconds["fgit"].append(round(cost.seconds, 3))
        started = time.perf_counter()
        wanted = [plain_spans(*pair) for pair in part]
        seconds["plain"].append(round(time.perf_counter() - started, 3))
        print(f"turn {turn + 1}: annotate {last_of(seconds)}", flush=True)
    found = pl.read_parquet(out, columns=list(SPANS)).head(len(part)).select(SPANS)
    for number, (row, spans) in enumerate(zip(found.iter_rows(), wanted, strict=True)):
        if [as_spans(column) for column in row] != list(spans):
            raise UserError(f"annotate marks pair {number} otherwise than the plain way")
    rates = {
        "fgit": len(pairs) / statistics.median(seconds["fgit"]),
        "plain": len(part) / statistics.median(seconds["plain"]),
    }
    characters = [len(text) for pair in part for text in pair]
    marked = [sum(end - start for start, end in spans[1]) for spans in wanted]
    return {
        "annotate_pairs_per_s": rates["fgit"],
        "annotate_speedup": rates["fgit"] / rates["plain"],
    }, {
        "pairs": {"fgit": len(pairs), "plain": len(part)},
        "processes": {"fgit": CORES, "plain": 1},
        "seconds": seconds,
        "pairs_per_s": rates,
        "characters_per_side": statistics.mean(characters),
        "marked_characters_per_response": statistics.mean(marked),
    }


def real_pairs(data: Path, count: int) -> Iterator[dict[str, str]]:
    return synthetic.pairs(
        synthetic.gpteacher(data), synthetic.bugs(data), synthetic.wrong_answers(data), count
    )


def plain_spans(response: str, variant: str) -> tuple[list[Span], ...]:
    """The method's definition: marked lines and characters of the response, then of the variant.

    As fast as the plain form goes; that of tests/reference.py marks one character at a time.
    """
    lines = response.split("\n"), variant.split("\n")
    ends = [[0, *itertools.accumulate(len(line) + 1 for line in side)] for side in lines]
    ends[0][-1], ends[1][-1] = len(response), len(variant)  # no newline behind the last line
    found: tuple[list[Span], ...] = ([], [], [], [])
    for tag, i, i_end, j, j_end in difflib.SequenceMatcher(
        None, *lines, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        (y, y_end), (v, v_end) = (ends[0][i], ends[0][i_end]), (ends[1][j], ends[1][j_end])
        mark(found[0], y, y_end)
        mark(found[2], v, v_end)
        for kind, a, b in Levenshtein.editops(response[y:y_end], variant[v:v_end]):
            if kind != "insert":
                mark(found[1], y + a, y + a + 1)
            if kind != "delete":
                mark(found[3], v + b, v + b + 1)
    return found


def mark(spans: list[Span], start: int, end: int) -> None:
    """Add a span behind the others, as one with the last if the two touch."""
    if spans and start <= spans[-1][1]:
        spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
    elif start < end:
        spans.append((start, end))


def as_spans(rows: Iterable[Sequence[int]]) -> list[Span]:
    return [(start, end) for start, end in rows]


# ------------------------------------------------------------------ masks


def masks(given: argparse.Namespace, folder: Path) -> Figures:
    """The figures of the token masks, and what was measured."""
    tokenizer = load_tokenizer(SMOLLM2)
    texts: list[str] = []
    spans: list[tuple[list[Span], list[Span]]] = []
    for pair in real_pairs(given.data, -(-given.texts // 2)):
        found = plain_spans(pair["response"], pair["variant"])
        texts += [pair[side] for side in SIDES]
        spans += [(found[0], found[1]), (found[2], found[3])]
    batches = [slice(start, start + BATCH) for start in range(0, len(texts), BATCH)]

    def tokenize(batch: slice) -> None:
        tokenizer(texts[batch], add_special_tokens=False)

    def mark_tokens(batch: slice) -> None:
        token_masks(tokenizer, texts[batch], spans[batch])

    def plainly(batch: slice) -> None:
        for text, marks in zip(texts[batch], spans[batch], strict=True):
            plain_masks(tokenizer, text, *marks)

    contenders = {
        "plain_one_core": (plainly, 1),
        "tokenizer_one_core": (tokenize, 1),
        "masks_one_core": (mark_tokens, 1),
        "tokenizer": (tokenize, CORES),
        "masks": (mark_tokens, CORES),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(given.turns):
        totals = dict.fromkeys(contenders, 0.0)
        for batch in batches:  # by turns within a turn too, so that a drift hits all alike
            for name, (contender, cores) in contenders.items():
                with tokenizing_on(cores):
                    started = time.perf_counter()
                    contender(batch)
                    totals[name] += time.perf_counter() - started
        for name, total in totals.items():
            seconds[name].append(round(total, 3))
        print(f"turn {turn + 1}: masks {last_of(seconds)}", flush=True)
    part = slice(0, given.part)
    got = token_masks(tokenizer, texts[part], spans[part])
    for number, (mine, text, marks) in enumerate(zip(got, texts[part], spans[part], strict=True)):
        wanted = plain_masks(tokenizer, text, *marks)
        if (mine.tokens.tolist(), mine.line.tolist(), mine.token.tolist()) != wanted:
            raise UserError(f"fgit.masks marks text {number} otherwise than the plain way")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "masks_over_tokenizer": medians["tokenizer"] / medians["masks"],
        "masks_over_tokenizer_one_core": medians["tokenizer_one_core"] / medians["masks_one_core"],
        "masks_speedup": medians["plain_one_core"] / medians["masks_one_core"],
    }, {
        "texts": len(texts),
        "compared": len(got),
        "cores": {name: cores for name, (_, cores) in contenders.items()},
        "characters_per_text": statistics.mean(map(len, texts)),
        "tokens_per_text": statistics.mean(len(found.tokens) for found in got),
        "tokenizer": SMOLLM2,
        "seconds": seconds,
    }


def plain_masks(
    tokenizer: Any, text: str, lines: Sequence[Span], characters: Sequence[Span]
) -> tuple[list[int], list[int], list[int]]:
    """The ids of one text, and which of them overlap a span of lines and one of characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = []
    reached = 0
    for start, end in encoded["offset_mapping"]:
        offsets.append((min(start, reached), end))  # whitespace trimmed off belongs to the token
        reached = max(reached, end)
    marks = [
        [int(any(start < last and first < end for first, last in spans)) for start, end in offsets]
        for spans in (lines, characters)
    ]
    return encoded["input_ids"], marks[0], marks[1]


@contextlib.contextmanager
def tokenizing_on(cores: int) -> Iterator[None]:
    """Have the tokenizer use one core, or all that the process has."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if cores == 1 else "true"
    try:
        yield
    finally:
        del os.environ["TOKENIZERS_PARALLELISM"]
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


# ------------------------------------------------------------------ what all share


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keep this process, and those that it starts, to so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def median_of(runs: Iterable[Mapping[str, Any]], key: str, **wanted: Any) -> float:
    """The median of a figure over the runs that have all the wanted values."""
    return statistics.median(run[key] for run in runs if wanted.items() <= run.items())


def last_of(seconds: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())


def chart(found: Mapping[str, Any]) -> str:
    """Seconds and peak memory of decontaminate by the number of samples, as an SVG file.

    Args:
        found: ``decontaminate`` of what is written to --json.
    """
    from matplotlib.figure import Figure

    from fgit.report.figures import BLUE, INK, WIDTH, style, svg
    from tests.speed.charts import standalone

    samples = [size["samples"] for size in found["by_size"]]
    panels = [
        ("Decontaminate, seconds by samples", [size["seconds"] for size in found["by_size"]]),
        ("Peak memory, GB", [size["peak_gb"] for size in found["by_size"]]),
    ]
    with style("data stages"):
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        for axes, (title, values) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.plot(samples, values, "o-", color=BLUE)
            for place in zip(samples, values, strict=True):
                axes.annotate(
                    f"{place[1]:.3g}",
                    place,
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    color=INK,
                )
            axes.set_title(title)
            axes.set_xlim(0, 1.1 * max(samples))
            axes.set_ylim(0, 1.25 * max(values) or 1)
            axes.set_xticks(samples, [f"{count:,}" for count in samples])
            axes.set_xlabel("samples")
        return standalone(str(svg(figure, "Seconds and peak memory of decontaminate by samples")))


STAGES = {"decontaminate": decontaminate, "annotate": annotate, "masks": masks}


if __name__ == "__main__":
    sys.exit(main())
