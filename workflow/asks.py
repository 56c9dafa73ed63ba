"""What each job of a dry run asks for, as JSON lines that begin with @: for `fgit doctor`.

Takes Snakemake's own arguments, -n among them: python workflow/asks.py --profile slurm -n
"""

import json

from snakemake.cli import main
from snakemake.logging import logger


def note(record):
    """Print rule, threads and resources of a job that Snakemake tells of; let the record pass."""
    if hasattr(record, "rule_name") and hasattr(record, "resources"):
        known = {k: v for k, v in record.resources.items() if isinstance(v, int | str)}
        print("@" + json.dumps([record.rule_name, record.threads, known]))
    return True


logger.addFilter(note)
main()
