"""The audit that a config asks for, and its section of the report."""

from __future__ import annotations

import pytest

from fgit.common.errors import UserError
from fgit.config import parse_config
from tests.audited import CODES, sheet_of, written


def config(**changes):
    values = {
        "name": "x",
        "models": {"m": {"path": "m"}},
        "datasets": {"d": {"path": "d.jsonl"}},
        "benchmarks": {
            "easy": {"kind": "humaneval", "problems": "b.jsonl"},
            "big": {"kind": "bigcodebench", "problems": "b.jsonl"},
        },
        "decontaminate": {"against": ["easy"]},
        "methods": {"fgit": {}, "mutation": {"variants": "mutate"}},
        "tables": {},
    }
    return parse_config(values | changes)


def test_the_config_of_the_audit():
    assert config().audit.benchmarks == [] and config().audit.sheet == 0
    assert config(audit={"benchmarks": ["easy"], "sheet": 50}).audit.sheet == 50
    for audited, message in [
        ({"benchmarks": ["hard"]}, r"audit\.benchmarks: no benchmark is called 'hard'"),
        ({"benchmarks": ["big"]}, r"audit\.benchmarks: 'big' is of kind bigcodebench"),
        ({"sheets": 1}, r"unknown key 'audit\.sheets' .*; allowed: benchmarks, sheet"),
        ({"sheet": -1}, r"audit\.sheet: "),
    ]:
        with pytest.raises(UserError, match=message):
            config(audit=audited)


def test_sheets_are_of_datasets_with_a_teacher():
    from fgit.runs import sheets_of

    def table(*methods):
        rows = [{"model": "m", "method": "base"}]
        rows += [{"model": "m", "dataset": "d", "method": method} for method in methods]
        return {"t": {"caption": "T", "columns": ["easy"], "rows": rows}}

    for methods, count, expected in [
        (["fgit", "mutation"], 5, ["d"]),
        (["mutation"], 5, []),
        (["fgit"], 0, []),
    ]:
        made = config(tables=table(*methods), audit={"sheet": count})
        assert sheets_of(made) == expected


def test_the_section_of_the_report(tmp_path, audited, agree):
    from fgit.report.audit import audit_section
    from fgit.report.rendering import page_templates

    made = config(audit={"benchmarks": ["easy"], "sheet": 5})
    (tmp_path / "audit/sheets/d").mkdir(parents=True)
    written(tmp_path / "audit/sheets/d/sheet.json", "{}")
    found = audit_section(made, tmp_path)
    assert found["benchmarks"] == [] and found["readers"] == []
    assert found["pending"][0] == "easy is not run yet"
    assert "waits for its readers, in audit/sheets/d" in found["pending"][1]
    assert f"--out {tmp_path}/audit/sheets/d/kappa.json" in found["pending"][1]

    audited(CODES)
    (tmp_path / "out").rename(tmp_path / "audit/easy")
    agree(sheet_of([(1, 1), (0, 1)]), sheet_of([(1, 1), (0, 1)]))
    (tmp_path / "kappa.json").rename(tmp_path / "audit/sheets/d/kappa.json")
    found = audit_section(made, tmp_path)
    assert found["pending"] == []
    rows = {row[0]: row[1:] for row in found["benchmarks"][0]["rows"]}
    assert rows["all answers"][0] == "8" and rows["all answers"][1].startswith("37.5 % (")
    assert rows["all answers"][3] == "–" and float(rows["the selected ones"][3]) > 0.5
    assert found["readers"][0]["rows"][0] == [
        "incorrect",
        "2",
        "100 %",
        "1.00 (1.00 to 1.00)",
        "50 %",
    ]
    assert found["readers"][0]["rows"][1][3].startswith("not defined")
    macro = page_templates().get_template("audit.html.jinja").module.audit_of
    html = macro(found)
    assert "94.1 %" in html and "37.5 %" in html and "0.78" in html

    written(tmp_path / "audit/easy/audit.json", "{}")
    with pytest.raises(UserError, match=r"audit\.json, key 'benchmark': missing"):
        audit_section(made, tmp_path)
