"""Where numbers, tables and report go: under their own names if nothing is missing."""

from collections.abc import Iterable
from pathlib import Path

from fgit.common.errors import UserError
from fgit.common.files import existing
from fgit.config import Config, read_config
from fgit.steps import output_of, outputs_of, score_files, steps_of

PARTIAL = "partial"  # the folder of what is written while something is missing


def numbers_path(results: Path, table: str) -> Path:
    return results / output_of("results", table=table)


def numbers_folder(config: Config, results: Path, table: str) -> Path:
    """Where the numbers of a table go: the results folder, or ``partial`` in it.

    Raises:
        UserError: if there is no such results folder or table.
    """
    require_table(config, table)
    return folder_for(results, score_files(config, [table]))


def report_folder(config: Config, results: Path) -> Path:
    """Where the report goes: the results folder, or ``partial`` in it.

    It is whole with the tables' numbers (``fgit results``) and the audit that the config asks for.

    Raises:
        UserError: if there is no such results folder.
    """
    *_, report = steps_of(config)
    return folder_for(results, {*report.inputs} - {output_of("config")})


def folder_for(results: Path, needed: Iterable[str]) -> Path:
    """The results folder if all these files are in it, else ``partial`` in it."""
    existing(results)
    whole = all((results / file).exists() for file in needed)
    return results if whole else results / PARTIAL


def require_table(config: Config, table: str) -> None:
    if table not in config.tables:
        raise UserError(f"no table is called {table!r}; known: {', '.join(config.tables)}")


# ------------------------------------------------------------------ what the verbs read and write


def numbers_file(config: Path, results: Path, table: str) -> Path:
    return numbers_path(numbers_folder(read_config(config), results, table), table)


def table_files(out: Path, table: str | None) -> list[Path]:
    """The files of a table, the last two of a figure only; the folder for all tables."""
    forms = ("md", "csv", "tex", "html", "svg", "png")
    return [out / f"{table}.{form}" for form in forms] if table else [out]


def report_files(config: Path, results: Path) -> list[Path]:
    """What a report writes, tables not among it."""
    folder = report_folder(read_config(config), results)
    names = (*outputs_of("report"), "tables/claims.md", "tables/claims.csv")
    return [folder / name for name in names]


def numbers_read(config: Path, results: Path, files: list[Path]) -> dict[str, str]:
    """The numbers, by table, that a report draws from; none if it gathers them itself."""
    tables = read_config(config).tables if files[0].parent == results else ()
    return {table: str(numbers_path(results, table)) for table in tables}
