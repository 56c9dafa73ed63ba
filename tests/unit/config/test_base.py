"""Which settings change the speed only."""

from fgit.config import (
    EvaluateSettings,
    GenerateSettings,
    ScoreSettings,
    SelectSettings,
    Settings,
    TrainSettings,
    every_subclass,
)

SPEED = {
    GenerateSettings: {
        *("batch_size", "tensor_parallel", "requests_per_minute", "tokens_per_minute"),
        *("max_spend", "price_per_million_input", "price_per_million_output"),
    },
    SelectSettings: {"batch_size"},
    TrainSettings: {"token_budget", "attention", "gradient_checkpointing", "checkpoint_minutes"},
    EvaluateSettings: {"batch_size"},
    ScoreSettings: {"memory_mb"},
}


def test_what_changes_the_speed_only_is_said_at_the_field():
    """Whoever adds or takes away a mark decides what is asked, trained or scored again."""
    fields = {cls: cls.speed_fields() for cls in every_subclass(Settings)}
    inherited = [cls for cls in fields if any(issubclass(cls, own) for own in SPEED)]
    assert {cls: fields[cls] for cls in SPEED} == SPEED
    assert not [cls for cls in fields if fields[cls] and cls not in inherited]


def test_a_settings_result_depends_on_no_speed():
    fast = {"token_budget": 64, "attention": "sdpa", "gradient_checkpointing": True}
    assert TrainSettings(**fast, checkpoint_minutes=1).effective == TrainSettings().effective
