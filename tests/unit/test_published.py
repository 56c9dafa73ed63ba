"""Reading the published numbers."""

import pytest

from fgit.common.errors import UserError
from fgit.config import read_config
from fgit.published import read_published
from tests.conftest import REPOSITORY
from tests.results_folder import make_config

HEADER = "table,model,dataset,method,column,value"


def config_of(tmp_path, *rows, header=HEADER, quoted=False, average=False):
    path = tmp_path / "numbers.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    table = make_config().tables["main"].model_dump() | {"average": average}
    if quoted:
        table["rows"].append({"label": "Huge", "model": "huge", "method": "published"})
    return make_config(published=str(path), tables={"main": table})


def test_without_a_file_there_is_nothing():
    assert read_published(make_config()) == {}


def test_numbers_are_found_by_table_row_and_column(tmp_path):
    config = config_of(
        tmp_path,
        "main,tiny,,base,easy,70.1",
        "main,tiny,tasks,fgit,easy+, 66.5 ",
        "",
        "main,huge,,published,easy,0",
        quoted=True,
    )
    assert read_published(config) == {
        ("main", ("tiny", None, "base"), "easy"): 70.1,
        ("main", ("tiny", "tasks", "fgit"), "easy+"): 66.5,
        ("main", ("huge", None, "published"), "easy"): 0.0,
    }


def test_a_printed_average_belongs_to_tables_that_have_one(tmp_path):
    row = "main,tiny,,base,average,70.1"
    assert len(read_published(config_of(tmp_path, row, average=True))) == 1
    with pytest.raises(UserError, match="main has no column 'average'"):
        read_published(config_of(tmp_path, row))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["mian,tiny,,base,easy,70"], "row 2: no table is called 'mian'; known: main"),
        (["main,tiny,,sft,easy,70"], "row 2: main has no row tiny / sft; it has: tiny / base;"),
        (["main,tiny,,base,hard,70"], "row 2: main has no column 'hard'; it has: easy, easy+"),
        (["main,tiny,,base,easy,many"], "row 2: the value 'many' is no percentage"),
        (["main,tiny,,base,easy,"], "row 2: the value '' is no percentage"),
        (["main,tiny,,base,easy,100.5"], "row 2: the value '100.5' is no percentage"),
        (["main,tiny,,base,easy,-1"], "row 2: the value '-1' is no percentage"),
        (["main,tiny,,base,easy,nan"], "row 2: the value 'nan' is no percentage"),
        (["main,tiny,,base,easy,1", "main,tiny,,base,easy,1"], "row 3: a second number for easy"),
        (["main,tiny,,base,easy"], "row 2: nothing for value"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=r"numbers\.csv") as caught:
        read_published(config_of(tmp_path, *rows))
    assert message in str(caught.value)


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(UserError, match="row 1: no column method, value"):
        read_published(config_of(tmp_path, header="table,model,dataset,column"))


def test_a_quoted_row_without_a_number_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no number for the row 'Huge' of main, which is only quo"):
        read_published(config_of(tmp_path, quoted=True))


def test_a_missing_file_and_a_wrong_encoding_are_named(tmp_path):
    config = config_of(tmp_path)
    (tmp_path / "numbers.csv").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"numbers\.csv: not UTF-8"):
        read_published(config)
    (tmp_path / "numbers.csv").unlink()
    with pytest.raises(UserError, match=r"numbers\.csv: no such file"):
        read_published(config)


def test_the_papers_numbers_all_have_a_place(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    found = read_published(read_config(REPOSITORY / "config.yaml"))
    assert found["table_1", ("semcoder-s", "evol-instruct", "fgit"), "humaneval"] == 83.5
    assert found["table_5", ("semcoder-s", "evol-instruct", "fgit"), "humaneval"] == 82.9
