"""``methods``: named ways to train."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgit.config.base import Name
from fgit.config.messages import validation_message
from fgit.config.train import TrainSettings


class Method(BaseModel):
    """A named way to train: ``extends`` another method, and any key of the training settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    extends: Name | None = Field(None, description="the method whose settings are taken over")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


def check_train_settings(
    where: str, values: Mapping[str, Any], also: Iterable[str] = ()
) -> TrainSettings:
    """Training settings that stand under a key of the config; ``also`` names more keys there."""
    if "seed" in values:
        raise ValueError(
            f"{where}.seed: {values['seed']!r} would not be used: each run takes its seed from "
            "the key seeds, at the top"
        )
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        raise ValueError(validation_message(error, where, also=also, not_here=["seed"])) from error
