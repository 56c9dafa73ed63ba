"""What a config costs, before anything is spent: jobs, tokens, hours and disk of each stage."""

from collections.abc import Sequence
from pathlib import Path

from fgit.common.errors import UserError
from fgit.common.files import write_json
from fgit.config import read_config
from fgit.plan.costs import plan_of
from fgit.plan.measured import measured_settings
from fgit.plan.text import as_json, as_text, as_yaml
from fgit.runs import pilot_of


def plan(
    path: Path,
    tables: Sequence[str] | None = None,
    pilot: bool = False,
    results: Path | None = None,
    measured: Path | None = None,
    out: Path | None = None,
    settings_only: bool = False,
) -> None:
    """Print what a config costs.

    Args:
        path: the config.
        tables: keys of tables; None is everything.
        pilot: the config's pilot in its place.
        results: where jobs that are done are looked for; by default, results/NAME.
        measured: a results folder whose files say what was measured.
        out: a JSON file with every job.
        settings_only: print the config's key ``plan`` that the plan would rest on, and no plan.

    Raises:
        UserError: naming an unknown table, or the key of a size that is not known.
    """
    config = read_config(path)
    if unknown := [name for name in tables or [] if name not in config.tables]:
        raise UserError(
            f"--table {unknown[0]}: {path} has no such table; known: {', '.join(config.tables)}"
        )
    if measured is not None:
        config = config.model_copy(update={"plan": measured_settings(config, measured)})
    if settings_only:
        print(as_yaml(config.plan), end="")
        return
    if pilot:
        config = pilot_of(config)
    costs = plan_of(config, results or Path("results") / config.name, tables, pilot=pilot)
    print(as_text(costs), end="")
    if out is not None:
        write_json(out, as_json(costs))
