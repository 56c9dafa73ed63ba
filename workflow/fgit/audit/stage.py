"""Are the teacher's variants similar and incorrect? By tests, and by two readers (section III-B1).

The teacher writes variants of a benchmark's canonical solutions, and these are run against the
benchmark's own tests. Of the training data, which has no tests, two people read a sheet of pairs.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import random
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from fgit.annotate import SIDES, segments
from fgit.benchmarks.kinds import programs_of
from fgit.benchmarks.problems import read_problems
from fgit.common import files
from fgit.common.code_blocks import main_code
from fgit.common.errors import UserError
from fgit.config import AUDITED, BenchmarkKind, ScoreSettings, SelectSettings
from fgit.variants import read_variants

log = logging.getLogger(__name__)

# Section III-B1 of the paper, to be shown beside what is measured: the share of the variants of
# HumanEval and MBPP that fail their tests, and their mean cosine similarity; of 50 variants that
# two authors read, the share found similar and incorrect, and Cohen's kappa.
PAPER_INCORRECT = 0.941
PAPER_SIMILARITY = 0.95
PAPER_READ = 0.94
PAPER_KAPPA = 0.78

RECORDS = dict.fromkeys(["id", "instruction", "response", "language", "tests"], pl.String)
SCHEMA: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "k": pl.Int64,
    "code": pl.String,
    "refused": pl.String,
    "similarity": pl.Float64,
    "base_status": pl.String,
    "plus_status": pl.String,
    "wrong": pl.Boolean,
    "selected": pl.Boolean,
}
TESTS = ("base", "plus")
COLUMNS = ["number", "id", "incorrect", "similar"]
QUESTIONS = ("incorrect", "similar")
READERS = ("reader-1.csv", "reader-2.csv")
KAPPA = "kappa.json"  # beside the readers' files, where the report looks for it
Z95 = 1.959963984540054


# ------------------------------------------------------------------ the problems as records


def records(
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    out: Path,
    sha256: str | None = None,
) -> None:
    """Write a benchmark's problems as records, for which the teacher then writes variants.

    Args:
        out: Parquet with id (the task_id), instruction (the problem), response (the canonical
            solution as a whole program, in a code block), language and tests (kind ``tests``).

    Raises:
        UserError: if the problem file is missing or broken, or of a kind without such solutions.
    """
    check_kind(kind)
    rows = [record_of(kind, problem) for problem in read_problems(kind, problems, sha256).values()]
    files.write_parquet(out, pl.DataFrame(rows, schema=RECORDS))
    log.info("%d problems as records", len(rows))


def check_kind(kind: str) -> None:
    if kind not in AUDITED:
        raise UserError(
            f"kind {kind}: an audit runs variants of canonical solutions against tests of kind "
            f"{', '.join(AUDITED)}"
        )


def record_of(kind: BenchmarkKind, problem: Mapping[str, Any]) -> dict[str, str | None]:
    """A problem as a user would ask it, and its canonical solution as the answer.

    MBPP's prompt is a text in a docstring, and its solution is whole without it. HumanEval's is
    the beginning of the program.
    """
    prompt, code = problem["prompt"], problem["canonical_solution"]
    text = only_docstring(prompt)
    if text is None:
        text = f"Complete this Python program:\n\n{fenced(prompt)}"
        code = prompt + code
    return {
        "id": problem["task_id"],
        "instruction": text,
        "response": fenced(code),
        "language": "python",
        "tests": problem["test"] if programs_of(kind).scorer == "tests" else None,
    }


def only_docstring(prompt: str) -> str | None:
    """The text of a prompt that is nothing but a docstring, or None."""
    try:
        body = ast.parse(prompt).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    match body:
        case [ast.Expr(value=ast.Constant(value=str(text)))] if text.strip():
            return text.strip()
    return None


def fenced(code: str) -> str:
    """Python code in a Markdown block whose fence is longer than any in the code."""
    code = code.strip("\n")
    fence = "`" * (max((len(run) for run in re.findall(r"`{3,}", code)), default=2) + 1)
    return f"{fence}python\n{code}\n{fence}\n"


# ------------------------------------------------------------------ by tests


def variants(
    kind: BenchmarkKind,
    problems: str | os.PathLike[str],
    variants: Path,
    out: Path,
    scoring: ScoreSettings,
    selection: SelectSettings,
    threads: int,
    sha256: str | None = None,
) -> None:
    """Run the teacher's variants of a benchmark's solutions against the benchmark's tests.

    Writes in the folder ``out``:

    * ``variants.parquet`` (:data:`SCHEMA`), a row per answer: code (null where refused, and
      ``refused`` says why), similarity (cosine to the canonical code, by the embedder of select),
      the outcome of the base and of the plus tests, wrong (some test fails), and selected (what
      select would choose). Of a refused answer what code it has is run too, so that its outcome
      is known; an answer without code fails as ``empty``. There is no outcome where the teacher
      was not asked, or where the canonical solution fails too.
    * ``audit.json``: the shares that fail, by tests and over *all* answers, as the paper counts,
      over the *usable* ones, and over the *selected* one of each problem, with 95 % Wilson
      intervals (which take the answers to one problem as independent); and the similarities.

    A run that was stopped goes on where it was.

    Args:
        variants: as generate writes them from what :func:`records` makes of these problems.
        threads: programs that run at a time.

    Raises:
        UserError: if too many canonical solutions fail their tests, or the variants are of other
            problems.
    """
    from fgit.generate import longest_code
    from fgit.inference.requests import TOO_LONG
    from fgit.sandbox.pool import Submission, VerdictJournal, check, conditions_of, fingerprint_of
    from fgit.select.candidates import choice_of
    from fgit.select.stage import Embedder, cosine, most_similar

    check_kind(kind)
    problems = files.resolve(os.fspath(problems))
    by_id = read_problems(kind, problems, sha256)
    frame = read_variants(variants, by_id)
    if missing := [column for column in ("answer", "refused") if column not in frame.columns]:
        raise UserError(f"{variants}: no column {', '.join(missing)}; make them by fgit generate")
    rows = frame.sort("k", maintain_order=True).to_dicts()

    submissions = {
        f"canonical {name}": Submission(problem, programs_of(kind).canonical(problem))
        for name, problem in by_id.items()
    }
    for row in rows:
        if row["refused"] != TOO_LONG:
            code = row["code"] or longest_code(row["answer"] or "", python=True)
            submissions[f"{row['k']} {row['id']}"] = Submission(by_id[row["id"]], code)
    conditions = conditions_of(kind, scoring, problems)
    conditions["variants_sha256"] = files.sha256(variants)
    with VerdictJournal(out / "journal.jsonl", fingerprint_of(kind, conditions)) as journal:
        verdicts = check(
            kind,
            submissions,
            scoring,
            threads=threads,
            where=str(problems),
            journal=journal,
            description="Testing variants",
        )
        failing = [name for name in by_id if not verdicts[f"canonical {name}"].passed]
        check_canonical(failing, len(by_id), scoring.min_ground_truth, problems)
        codes: dict[str, list[str]] = {}
        for row in rows:
            if row["code"] is not None:
                codes.setdefault(row["id"], []).append(row["code"])
        choices = {}
        for name in codes:
            response = str(record_of(kind, by_id[name])["response"])
            choice = choice_of(response, main_code(response), codes[name])
            assert choice is not None, "a fenced program is code"
            choices[name] = choice
        embedder = Embedder(selection)
        index, vectors = embedder.embed(
            code for name in codes for code in [choices[name].code, *codes[name]]
        )
        chosen = {
            name: most_similar(choice, index, vectors)[0]
            for name, choice in choices.items()
            if choice.responses
        }
        result = []
        for row in rows:
            name, code = row["id"], row["code"]
            verdict = None if name in failing else verdicts.get(f"{row['k']} {name}")
            similarity = None
            if code is not None:
                pair = [vectors[[index[text]]] for text in (choices[name].code, code)]
                similarity = float(cosine(*pair)[0])
            result.append(
                {key: row[key] for key in ("id", "k", "code", "refused")}
                | {
                    "similarity": similarity,
                    "base_status": verdict.base if verdict else None,
                    "plus_status": verdict.plus if verdict else None,
                    "wrong": not verdict.passed if verdict else None,
                    # The first of equal ones: the rows are ordered by k.
                    "selected": code is not None and chosen.get(name) == code,
                }
            )
            if result[-1]["selected"]:
                del chosen[name]
        order = {name: number for number, name in enumerate(by_id)}
        result.sort(key=lambda row: (order[row["id"]], row["k"]))
        table = pl.DataFrame(result, schema=SCHEMA)
        summary = {
            "benchmark": kind,
            "problems": len(by_id),
            "canonical_fails": failing,
            "with_variant": table.filter("selected").height,
            "answers": table.height,
            "usable": table["code"].drop_nulls().len(),
            "refused": dict(Counter(table["refused"].drop_nulls()).most_common()),
            "incorrect": {tests: shares(table, tests) for tests in TESTS},
            "similarity": {
                "usable": spread(table["similarity"]),
                "selected": spread(table.filter("selected")["similarity"]),
            },
            **conditions,
            "select": selection.model_dump(mode="json"),
            "threads": threads,
        }
        files.write_parquet(out / "variants.parquet", table)
        files.write_json(out / "audit.json", summary)
        journal.remove()
    log.info("%s", in_words(summary))


def check_canonical(failing: Sequence[str], count: int, least: float, problems: Path) -> None:
    """Name the problems whose canonical solution fails; too many are an error.

    A few are left out of the audit: a variant that fails too shows nothing.
    """
    if not failing:
        return
    names = f"{', '.join(failing[:5])}{', …' if len(failing) > 5 else ''}"
    if (count - len(failing)) / count < least:
        raise UserError(
            f"{problems}: {len(failing)} of {count} canonical solutions fail their own tests "
            f"({names}), so nothing is shown by variants that fail; use the right file and a quiet "
            f"machine, or lower min_ground_truth (now {least:g})"
        )
    log.warning("The canonical solutions of %s fail their own tests; these are left out", names)


def shares(table: pl.DataFrame, tests: str) -> dict[str, Any] | None:
    """How many fail, over all answers, the usable and the selected ones; None without such tests.

    ``plus`` counts who fails the base or the plus tests, as EvalPlus does.
    """
    from fgit.common.statistics import wilson
    from fgit.sandbox.pool import PASS

    run = table.filter(pl.col("base_status").is_not_null())
    if tests == "plus" and run["plus_status"].null_count() == run.height:
        return None
    fails = pl.col("base_status") != PASS
    if tests == "plus":
        fails |= pl.col("plus_status") != PASS
    found: dict[str, Any] = {}
    for name, part in {
        "all": run,
        "usable": run.filter(pl.col("code").is_not_null()),
        "selected": run.filter("selected"),
    }.items():
        n, failing = part.height, part.filter(fails).height
        found[name] = {
            "n": n,
            "fail": failing,
            "share": failing / n if n else None,
            "interval": list(wilson(failing, n)) if n else None,
        }
    return found


def spread(values: pl.Series) -> dict[str, float | None]:
    found = values.drop_nulls().to_list()
    return {
        "mean": statistics.fmean(found) if found else None,
        "median": statistics.median(found) if found else None,
        "min": min(found, default=None),
    }


def in_words(summary: Mapping[str, Any]) -> str:
    lines = [f"Variants that fail the tests of {summary['benchmark']}:"]
    for tests, found in summary["incorrect"].items():
        for name, part in (found or {}).items():
            text = "–"
            if part["n"]:
                low, high = part["interval"]
                text = (
                    f"{100 * part['share']:5.1f} %  ({100 * low:.1f} to {100 * high:.1f}; "
                    f"{part['fail']} of {part['n']})"
                )
            lines.append(f"  {tests + ', ' + name:<16}{text}")
    lines.append(f"  {'paper':<16}{100 * PAPER_INCORRECT:5.1f} %")
    lines.append("Mean cosine similarity to the canonical code:")
    for name, found in summary["similarity"].items():
        mean = found["mean"]
        lines.append(f"  {name:<16}{'–' if mean is None else f'{mean:5.3f}'}")
    lines.append(f"  {'paper':<16}{PAPER_SIMILARITY:.2f}")
    return "\n".join(lines)


# ------------------------------------------------------------------ a sheet for two readers


def sheet(pairs: Path, out: Path, count: int, seed: int) -> None:
    """Draw pairs at random for two people to judge, each alone.

    Writes in the folder ``out``: ``sheet.html`` (the pairs side by side, in one file that opens
    anywhere), ``reader-1.csv`` and ``reader-2.csv`` (to be filled in: number, id, incorrect,
    similar), and ``sheet.json`` (which pairs were drawn). Answers that someone has begun are
    never overwritten: of the same draw they stay, of another one they are a reason to stop.

    Args:
        pairs: Parquet as select writes it.
        count: how many; all, if there are fewer pairs.

    Raises:
        UserError: if there is no pair, or a reader's file holds answers to another draw.
    """
    frame = files.read_parquet(pairs)
    if missing := [name for name in ("id", "instruction", *SIDES) if name not in frame.columns]:
        raise UserError(f"{pairs}: no column {', '.join(missing)}; pairs come from fgit select")
    rows = frame.filter(pl.col("variant").is_not_null()).to_dicts()
    if not rows:
        raise UserError(f"{pairs}: no sample has a variant, so there is nothing to read")
    if len(rows) < count:
        log.warning("%s has only %d pairs: all of them are drawn", pairs, len(rows))
    drawn = random.Random(seed).sample(rows, min(count, len(rows)))
    texts = [[row[name] for name in ("id", "instruction", *SIDES)] for row in drawn]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    mark = f'<meta name="draw" content="{digest}">'
    begun = [name for name in READERS if has_answers(out / name)]
    page = out / "sheet.html"
    if begun and not (page.exists() and mark in page.read_text(encoding="utf-8", errors="replace")):
        raise UserError(
            f"{out / begun[0]}: someone has begun to fill it in, for other pairs than these. "
            f"Nothing was changed: move {out} away, or choose another --out"
        )
    files.write_text(page, sheet_page(drawn, seed, mark, out))
    blank = csv_text([[str(number), row["id"], "", ""] for number, row in enumerate(drawn, 1)])
    for name in READERS:
        if name not in begun:
            files.write_text(out / name, blank)
    files.write_json(
        out / "sheet.json",
        {
            "draw": digest,
            "pairs_sha256": files.sha256(pairs),
            "seed": seed,
            "count": len(drawn),
            "drawn": [{"number": n, "id": row["id"]} for n, row in enumerate(drawn, 1)],
        },
    )
    if begun:
        log.info("The answers in %s stay: they are of this draw", " and ".join(begun))
    log.info("%d pairs to read: %s; answers go into %s", len(drawn), page, " and ".join(READERS))


def kappa_command(folder: Path) -> str:
    """The command that compares the answers in a sheet's folder, and writes what the report shows.

    Args:
        folder: of :func:`sheet`, as it is seen from where the command is run.
    """
    paths = [shlex.quote(str(folder / name)) for name in (*READERS, KAPPA)]
    return "fgit audit kappa {} {} --out {}".format(*paths)


def sheet_page(drawn: Sequence[Mapping[str, Any]], seed: int, mark: str, folder: Path) -> str:
    from markupsafe import Markup

    from fgit.report.rendering import environment
    from fgit.report.segments import code_lines, side_by_side

    shown = []
    for number, row in enumerate(drawn, 1):
        found = dataclasses.asdict(segments(row["response"], row["variant"]))
        lines = side_by_side(
            *(
                code_lines(row[side], found[f"{side}_lines"], found[f"{side}_characters"])
                for side in SIDES
            )
        )
        texts = {name: row[name] for name in ("id", "instruction")}
        shown.append({"number": number, "lines": lines} | texts)
    template = environment().get_template("sheet.html.jinja")
    return template.render(
        pairs=shown, seed=seed, readers=READERS, command=kappa_command(folder), mark=Markup(mark)
    )


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *rows])
    return out.getvalue()


def has_answers(path: Path) -> bool:
    """Whether a reader's file holds anything that would be lost; what cannot be read may."""
    if not path.exists():
        return False
    try:
        rows = read_sheet(path)
    except UserError:
        return path.stat().st_size > 0
    own = {"number", "id"}
    return any(value.strip() for _, row in rows for name, value in row.items() if name not in own)


# ------------------------------------------------------------------ the readers' agreement


@dataclasses.dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its asymptotic 95 % interval, cut to [-1, 1]."""

    value: float
    low: float
    high: float


def cohens_kappa(table: npt.ArrayLike) -> Kappa | None:
    """Agreement of two readers beyond chance: (p_o - p_e) / (1 - p_e).

    The interval is that of the large-sample variance (Fleiss, Cohen and Everitt, 1969); where the
    readers agree on everything it has no width.

    Args:
        table: counts, Int[c, c]: row by the first reader's answer, column by the second's, both
            in the same order of the c answers; not all 0.

    Returns:
        None where kappa is not defined: both readers give one and the same answer throughout.
    """
    counts = np.asarray(table, dtype=np.float64)
    n = counts.sum()
    p = counts / n
    row, column = p.sum(1), p.sum(0)
    agreement, chance = float(np.trace(p)), float(row @ column)
    if np.isclose(chance, 1.0, rtol=0, atol=1e-12):
        return None
    kappa = (agreement - chance) / (1 - chance)
    # sums[i, j]: column marginal of i plus row marginal of j, as the variance weighs cell (i, j).
    sums = column[:, None] + row[None, :]
    weights = ((1 - agreement) * sums) ** 2
    np.fill_diagonal(weights, ((1 - chance) - np.diag(sums) * (1 - agreement)) ** 2)
    centre = (agreement * chance - 2 * chance + agreement) ** 2
    variance = (float((p * weights).sum()) - centre) / (n * (1 - chance) ** 4)
    half = Z95 * math.sqrt(max(0.0, variance))
    return Kappa(kappa, max(-1.0, kappa - half), min(1.0, kappa + half))


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a reader says of one pair."""

    number: str
    incorrect: bool
    similar: bool

    def says(self, question: str) -> bool:
        """The answer to one of the questions, or to ``both`` together."""
        if question == "both":
            return self.incorrect and self.similar
        return bool(getattr(self, question))


def kappa(first: Path, second: Path, out: Path | None = None) -> None:
    """Compare the answers of two readers; print how far they agree, and what is to be discussed.

    Args:
        out: JSON; for ``incorrect``, ``similar`` and ``both`` (similar and incorrect, which the
            paper counts) the table of counts by the first and the second reader's answer, the
            share on which they agree, Cohen's kappa with its 95 % interval (null where it is not
            defined), the shares of yes, and the numbers of the pairs on which they disagree.

    Raises:
        UserError: naming file, row and value, if an answer is missing or neither yes nor no, or if
            the files are not about the same pairs.
    """
    readings = read_answers(first), read_answers(second)
    check_same(readings, (first, second))
    summary = {
        "n": len(readings[0]),
        "readers": [str(first), str(second)],
        **{question: agreement(*readings, question) for question in (*QUESTIONS, "both")},
    }
    if out is not None:
        files.write_json(out, summary)
    print(agreement_in_words(summary))


def agreement(
    first: Mapping[str, Reading], second: Mapping[str, Reading], question: str
) -> dict[str, Any]:
    """How far two readers of the same pairs (by id) agree on one question."""
    cells = Counter((first[key].says(question), second[key].says(question)) for key in first)
    table = [[cells[a, b] for b in (True, False)] for a in (True, False)]
    n = len(first)
    found = cohens_kappa(table)
    return {
        "table": {
            f"{a}/{b}": table[i][j]
            for i, a in enumerate(("yes", "no"))
            for j, b in enumerate(("yes", "no"))
        },
        "agreement": (table[0][0] + table[1][1]) / n,
        "kappa": found.value if found else None,
        "interval": [found.low, found.high] if found else None,
        "yes": {
            "first": sum(table[0]) / n,
            "second": (table[0][0] + table[1][0]) / n,
            "both": table[0][0] / n,
        },
        "disagreements": [
            first[key].number
            for key in first
            if first[key].says(question) != second[key].says(question)
        ],
    }


def agreement_in_words(summary: Mapping[str, Any]) -> str:
    lines = [f"{summary['n']} pairs, read by {' and '.join(summary['readers'])}"]
    names = {"both": "similar and incorrect"}
    for question in (*QUESTIONS, "both"):
        found = summary[question]
        if found["kappa"] is None:
            kappa = "is not defined, since both readers give one and the same answer throughout"
        else:
            kappa = "{:.2f} (95 % interval {:.2f} to {:.2f})".format(
                found["kappa"], *found["interval"]
            )
        yes, table = found["yes"], found["table"]
        lines += [
            "",
            f"{names.get(question, question)}:",
            f"  the readers agree on {100 * found['agreement']:.0f} %; Cohen's kappa {kappa}",
            f"  yes: {100 * yes['first']:.0f} % and {100 * yes['second']:.0f} %, both "
            f"{100 * yes['both']:.0f} %",
            f"  {'':<12}{'second yes':>12}{'second no':>12}",
            *(
                f"  {'first ' + a:<12}{table[f'{a}/yes']:>12}{table[f'{a}/no']:>12}"
                for a in ("yes", "no")
            ),
        ]
        if found["disagreements"]:
            lines.append(f"  to be discussed: {', '.join(found['disagreements'])}")
    lines += [
        "",
        f"The paper, after discussion: {100 * PAPER_READ:.0f} % similar and incorrect, kappa "
        f"{PAPER_KAPPA}",
    ]
    return "\n".join(lines)


def read_answers(path: Path) -> dict[str, Reading]:
    """What a reader answered, by the pair's id.

    Raises:
        UserError: naming row and value, if an answer is missing, or neither yes nor no.
    """
    found: dict[str, Reading] = {}
    for line, row in read_sheet(path):
        given = {}
        for question in QUESTIONS:
            value = row[question].strip().lower()
            if value not in ("yes", "no"):
                what = f"is {row[question]!r:.60}" if value else "is not filled in"
                raise UserError(
                    f"{path}, row {line} (number {row['number']}): {question!r} {what}; "
                    "answer yes or no"
                )
            given[question] = value == "yes"
        if row["id"] in found:
            raise UserError(
                f"{path}, row {line}: id {row['id']!r} stands twice; a pair is judged once"
            )
        found[row["id"]] = Reading(row["number"].strip(), **given)
    if not found:
        raise UserError(f"{path}: no answers in this file")
    return found


def check_same(readings: Sequence[Mapping[str, Reading]], paths: Sequence[Path]) -> None:
    """Raise UserError unless both readers judged the same pairs, under the same numbers."""
    read = list(zip(readings, paths, strict=True))
    for (mine, here), (other, there) in (read, read[::-1]):
        for name, reading in mine.items():
            if name not in other:
                raise UserError(
                    f"{there}: no answer about id {name!r}, which is number {reading.number} in "
                    f"{here}; both readers judge the same sheet"
                )
            if other[name].number != reading.number:
                raise UserError(
                    f"{there}: id {name!r} is number {other[name].number!r}, but number "
                    f"{reading.number!r} in {here}; both readers judge the same sheet"
                )


def read_sheet(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a reader's file, each with the number of its last line in the file.

    As spreadsheets save it: with or without a byte order mark, separated by commas or semicolons,
    with further columns or empty lines.

    Raises:
        UserError: if it is not such a file, or a row has too few or too many fields.
    """
    try:
        text = files.existing(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error
    head = text.partition("\n")[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if missing := [name for name in COLUMNS if name not in names]:
            raise UserError(
                f"{path}: no column {', '.join(missing)} (it has: {', '.join(names) or 'none'}); "
                "fill in a file that fgit audit sheet wrote"
            )
        for row in reader:
            if not any(value.strip() for value in row):
                continue
            if len(row) != len(names):
                raise UserError(
                    f"{path}, row {reader.line_num}: {len(row)} fields where the heading has "
                    f"{len(names)}; mend the row"
                )
            rows.append((reader.line_num, dict(zip(names, row, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, row {reader.line_num}: not readable as CSV ({error})") from error
    return rows
