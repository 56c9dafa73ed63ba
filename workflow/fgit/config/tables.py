"""``tables`` and ``claims``: what the report shows; its runs follow."""

from pydantic import Field

from fgit.config.base import Name, Settings

FIXED_COLUMNS = (
    "avg",
    "dataset",
    "group",
    "method",
    "model",
    "n",
    "seeds",
)  # no names for benchmarks
TARGETS = ("all", "claims", "funnel", "pilot", "plan")  # no names for tables
BASE = "base"  # the method of a row that shows a model as it is
PUBLISHED = "published"  # the method of a row that is only quoted
NOT_TRAINED = {BASE: "the untrained model", PUBLISHED: "a quoted row"}


class Row(Settings):
    """A row of a table: a base model (method base), a run, or published numbers (method published).

    A run is compared with the base row of its model, if the table has one.
    """

    group: str | None = Field(None, description="heading under which this and later rows stand")
    label: str | None = Field(None, description="what the row is called; by default, its method")
    model: Name = Field(description="a key of models")
    dataset: Name | None = Field(None, description="a key of datasets; none for base")
    method: Name = Field(
        description="a key of methods; base for the model as it is; published for a model that is "
        "only quoted"
    )
    x: float | None = Field(
        None, description="where the row stands in the table's figure; unset is a level line"
    )

    @property
    def name(self) -> str:
        return self.label or self.method

    @property
    def key(self) -> tuple[str, str | None, str]:
        """What a row shows; published numbers are named by it."""
        return self.model, self.dataset, self.method


class Figure(Settings):
    """A table drawn as a curve: its rows over their ``x``, a line for each column."""

    x: str = Field(description="what the rows' x is: the horizontal axis")
    optimum: float | None = Field(None, description="the x that was published as the best")


class Table(Settings):
    """A table of the report: benchmarks as columns, runs as rows.

    A run's number is marked where its difference from the base row of its model is significant.
    """

    caption: str = Field(description="what the table shows")
    columns: list[str] = Field(
        min_length=1,
        description="benchmarks; NAME is the base tests (of pairs, the share in which the correct "
        "side is the more probable one), NAME+ base and plus tests",
    )
    rows: list[Row] = Field(min_length=1, description="the rows, in order")
    average: bool = Field(False, description="whether the mean over the columns is one more column")
    figure: Figure | None = Field(None, description="draw it as a curve too")


class Claim(Settings):
    """A relative improvement that tables should yield.

    For each model of the tables that has both rows: the change, relative to ``over``, of the mean
    over the table's columns; the claim is the mean over these models.
    """

    label: str = Field(description="what is claimed")
    tables: list[Name] = Field(min_length=1, description="keys of tables")
    of: Name = Field(description="the method that is better")
    over: Name = Field(description="the method that it is compared with, or base")
    models: list[Name] = Field(
        default_factory=list, description="these models only; unset takes all of the tables"
    )
    published: float | None = Field(None, description="the published figure, in percent")
