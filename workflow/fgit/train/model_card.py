"""The model card of a trained model: ``model/README.md``, as the hub reads it.

The same training gives the same bytes, wherever it lies: neither times nor places are in it.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fgit.common.files import sha256
from fgit.common.models import LOADED_MODELS
from fgit.common.provenance import code_version, package_versions, provenance_path, read_provenance
from fgit.common.tokenizers import ids_around, prompt_ids, prompt_text
from fgit.config import WEIGHT_ONE, TrainSettings
from fgit.stage_reports import TrainReport

SCORES_HEADING = "## Scores"
NOT_EVALUATED = "Not evaluated yet; `fgit export model` adds the scores."
# Names that the hub takes as a licence; any other is "other", with a name of its own.
HUB_LICENCES = frozenset(
    {
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "mpl-2.0"),
        *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "openrail"),
        *("bigcode-openrail-m", "bigscience-openrail-m", "gemma", "unknown", "other"),
        *("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"),
    }
)
LICENCE_KEYS = ("license", "license_name", "license_link")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TRAINED_BY = ("torch", "transformers", "accelerate", "peft", "tokenizers")
MEASURED = {
    "nll": "loss (−log P per response token)",
    "p_response": "mean P of the correct side's marked tokens",
    "p_variant": "mean P of the incorrect side's marked tokens",
    "prefers_response": "share of pairs whose correct side is the more probable",
}


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card tells of a training."""

    model: str
    revision: str | None
    template: str
    licence: str | None
    settings: TrainSettings
    spans: Path
    report: TrainReport


def model_card(training: CardFacts, tokenizer: Any) -> str:
    """The card as Markdown, with YAML front matter."""
    settings = training.settings
    name = base_name(training.model)
    licence = licence_of(training.licence, training.model)
    data = source_of(training.spans)
    tag, title, method = method_of(settings)
    own = training.template == "own"
    template = "of its base model" if own else f"`{Path(training.template).name}`"
    # The variants' source is known to the config; a training is told only where the pairs are.
    depends_on = {k: v for k, v in settings.effective.items() if k != "variants"}
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if HUB_NAME.fullmatch(name):
        front |= {"base_model": name, "base_model_relation": "finetune"}
    if data:
        front["datasets"] = [data]
    front |= licence | {"tags": ["code", "fgit", tag]}
    sections = [
        f"# {Path(name).name}, fine-tuned: {title}",
        method,
        "## Use",
        usage(tokenizer),
        f"It was trained in the chat template {template}, which the tokenizer has with it: one "
        "user message, and the answer.",
        "## Base model",
        about_base_model(training, name, licence),
        "## Data",
        data_in_words(training, data),
        "## Training",
        "Every setting that the weights depend on:",
        f"```yaml\n{yaml.safe_dump(depends_on, sort_keys=False)}```",
        "## Held-out samples",
        held_out_table(
            training.report.held_out_before,
            training.report.held_out_after,
            training.report.held_out_counts.get("samples", 0),
        ),
        SCORES_HEADING,
        NOT_EVALUATED,
        "## Provenance",
        provenance(),
    ]
    text = "\n\n".join(sections)
    return f"---\n{yaml.safe_dump(front, allow_unicode=True)}---\n\n{text}\n"


def method_of(settings: TrainSettings) -> tuple[str, str, str]:
    """A tag, a few words and a sentence for the objective."""
    if settings.pairs_get == WEIGHT_ONE:
        how = (
            " (FGit with alpha 1, where every weight is 1)" if settings.objective == "fgit" else ""
        )
        return "sft", "standard SFT", f"Trained by standard supervised fine-tuning{how}."
    if settings.objective == "dpo":
        return (
            "dpo",
            "DPO",
            "Trained by direct preference optimization on correct code against similar, incorrect "
            f"variants of it, beta {settings.beta:g}.",
        )
    if settings.objective == "fgit":
        return (
            "fault-guided",
            "FGit",
            "Trained by fault-guided fine-tuning (FGit): the tokens in which correct code differs "
            f"from a similar, incorrect variant ({settings.granularity} mask) weigh up to "
            f"{settings.alpha:g} times as much, the more so the less the model tells the two "
            "apart.",
        )
    return (
        "fixed-weight",
        "fixed weight",
        "Trained by supervised fine-tuning in which the tokens where correct code differs from a "
        f"similar, incorrect variant ({settings.granularity} mask) weigh {settings.weight:g} times "
        "as much.",
    )


def usage(tokenizer: Any) -> str:
    """Code that loads the model, and asks it as it was trained."""
    text = prompt_text(tokenizer, "x")
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = prompt_ids(tokenizer, text) != plain
    appended = len(ids_around(tokenizer)[1]) if special else 0
    cut = (
        f"\nprompt = {{name: ids[:, :-{appended}] for name, ids in prompt.items()}}"
        "  # nothing stands between prompt and answer"
    )
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")

messages = [{{"role": "user", "content": "Write a function that adds two numbers."}}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
prompt = tokenizer(text, return_tensors="pt", add_special_tokens={special}){cut if appended else ""}
answer = model.generate(**prompt, max_new_tokens=512, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


def about_base_model(training: CardFacts, name: str, licence: Mapping[str, str]) -> str:
    commit = LOADED_MODELS.get(training.model, {}).get("commit") or training.revision
    stated = licence.get("license_name") or licence.get("license")
    revision = f", revision `{commit}`" if commit else ""
    unknown = "Its licence is not known here; look it up before you pass these weights on."
    return f"`{name}`{revision}. " + (f"Its licence: {stated}." if stated else unknown)


def data_in_words(training: CardFacts, data: str | None) -> str:
    counts, held_out = training.report.counts, training.report.held_out_counts
    return (
        (f"`{data}`, as " if data else "As ")
        + f"annotated pairs (SHA-256 of the file `{sha256(training.spans)}`): "
        f"{counts.get('samples', 0)} samples, of which {counts.get('paired', 0)} have an incorrect "
        "variant and tokens in which the two differ; "
        f"{held_out.get('samples', 0)} more were kept out of training. "
        f"{counts.get('cut', 0)} were cut to {training.settings.max_length} tokens, and "
        f"{counts.get('prompt_too_long', 0)} with longer prompts left out. "
        f"{used_in_words(training.report, training.settings)}."
    )


def used_in_words(report: TrainReport, settings: TrainSettings) -> str:
    """On how many samples the objective acts (:func:`fgit.train.examples.is_used`)."""
    samples, share = report.counts["samples"], report.used_share
    return f"Trained with {settings.pairs_get} on {report.used} of {samples} samples ({share:.1%})"


def held_out_table(before: Mapping[str, Any], after: Mapping[str, Any], kept_out: int) -> str:
    """Figures before and after training, as a table."""
    if not kept_out:
        return "None were kept out of training."
    if not before:
        return (
            f"{kept_out} were kept out of training, but their prompts are too long to be measured."
        )
    lines = ["| | before | after |", "| --- | --- | --- |"]
    for name, words in MEASURED.items():
        if before[name] is not None:
            lines.append(f"| {words} | {before[name]:.4f} | {after[name]:.4f} |")
    return "\n".join(lines)


def provenance() -> str:
    code, packages = code_version(), package_versions()
    versions = ", ".join(f"{name} {packages[name]}" for name in TRAINED_BY if name in packages)
    return (
        f"FGit {code['version']}, sources with the SHA-256 `{code['sources_sha256']}`; Python "
        f"{packages['python']}, {versions}."
    )


# ------------------------------------------------------------------ front matter


def read_front_matter(text: str) -> dict[str, Any]:
    """The YAML at the beginning of a card; empty if there is none that can be read."""
    block = re.match(r"---\r?\n(.*?)\r?\n---\r?$", text, re.DOTALL | re.MULTILINE)
    try:
        values = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def licence_of(licence: str | None, model: str) -> dict[str, str]:
    """The keys of a licence; without one, what the base model's own card says."""
    if licence:
        if licence in HUB_LICENCES:
            return {"license": licence}
        return {"license": "other", "license_name": licence}
    card = Path(model) / "README.md"
    if not card.is_file():
        return {}
    values = read_front_matter(card.read_text(encoding="utf-8", errors="replace"))
    return {key: str(values[key]) for key in LICENCE_KEYS if values.get(key)}


# ------------------------------------------------------------------ where things come from


def base_name(model: str) -> str:
    """What to call a base model: what it was fetched from, its name on the hub, or its folder's."""
    record = provenance_path(Path(model)) if Path(model).is_dir() else None
    if record and record.is_file():
        command = read_provenance(record).command
        if "fetch" in command and "--model" in command[:-1]:
            return base_name(command[command.index("--model") + 1])
    if Path(model).is_absolute() or Path(model).is_dir():
        return Path(model).name
    return model


def source_of(spans: Path) -> str | None:
    """The dataset on the hub that pairs were made of, by the provenance files on the way."""
    path = spans
    for name in ("pairs", "records", "data"):
        record = provenance_path(path)
        if not record.is_file():
            return None
        source = read_provenance(record).inputs.get(name)
        if source is None:
            return None
        path = Path(source.path)
    return str(path) if HUB_NAME.fullmatch(str(path)) and not path.exists() else None


# ------------------------------------------------------------------ scores


def with_scores(card: str, scores: str) -> str:
    """A card with another text under its heading for scores; at its end if it has no such."""
    section = f"{SCORES_HEADING}\n\n{scores.strip()}\n"
    old = re.search(rf"^{SCORES_HEADING}\n.*?(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    if old is None:
        return f"{card.rstrip()}\n\n{section}"
    behind = card[old.end() :]
    return card[: old.start()] + section + (f"\n{behind}" if behind else "")
