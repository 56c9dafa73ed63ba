"""The page in a real browser: its script runs, and does what it says. Skips without Chromium."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest

from fgit.report.stage import report
from tests.results_folder import Folder, make_config

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="not run: Chromium is not installed")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """A report of two groups, in which one run is not scored."""
    rows = [
        {"group": "First", "label": "untrained", "model": "tiny", "method": "base"},
        {"model": "tiny", "dataset": "tasks", "method": "sft"},
        {"model": "tiny", "dataset": "tasks", "method": "fgit"},
        {"group": "Second", "model": "tiny", "dataset": "tasks", "method": "dpo"},
        {"model": "tiny", "dataset": "tasks", "method": "mutation"},
    ]
    table = {"caption": "All methods", "columns": ["easy", "easy+"], "rows": rows}
    folder = Folder(
        tmp_path_factory.mktemp("browser") / "results", make_config(tables={"main": table})
    )
    for run, passed in [
        ("base", 4),
        ("tasks/sft/seed-0", 6),
        ("tasks/fgit/seed-0", 5),
        ("tasks/dpo/seed-0", 3),
    ]:
        folder.score(f"tiny/{run}", "easy", [number < passed for number in range(10)])
    folder.path("score", "tiny/tasks/mutation/seed-0", "easy", "summary.json").unlink()
    report(folder.config, folder.root)
    return folder.html()


@pytest.fixture
def browse(html, tmp_path):
    """Opens the page, runs JavaScript in it, and gives what that returned, and the console."""

    def run(script, *flags, fragment=""):
        script = f"""document.body.append(Object.assign(document.createElement("pre"), {{
            id: "told", textContent: JSON.stringify((() => {{ {script} }})()) }}));"""
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        page = html.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
        page = page.replace("</body>", f"<script>{script}</script></body>")
        path = tmp_path / "report.html"
        path.write_text(page, encoding="utf-8")
        done = subprocess.run(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", *flags),
                *("--virtual-time-budget=2000", "--dump-dom", f"{path.as_uri()}{fragment}"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        told = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
        assert told, "the script did not run"
        return json.loads(told[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    return run


METHODS = """
    const table = document.querySelector("table.results");
    const methods = () => [...table.tBodies[0].rows].filter((row) => !row.hidden)
        .map((row) => row.cells[0].firstChild.textContent.trim());
    const heading = (name) => [...table.querySelectorAll("th > button")]
        .find((button) => button.firstChild.textContent === name);
"""


def test_a_click_sorts_within_the_groups(browse):
    found = browse(
        METHODS
        + """
        const orders = [methods()];
        for (let click = 0; click < 3; click++) { heading("base").click(); orders.push(methods()); }
        return orders;
        """
    )
    plain = ["First", "untrained", "sft", "fgit", "Second", "dpo", "mutation"]
    assert found[0] == plain and found[3] == plain
    assert found[1] == ["First", "sft", "fgit", "untrained", "Second", "dpo", "mutation"]
    # What is not scored stays last.
    assert found[2] == ["First", "untrained", "fgit", "sft", "Second", "dpo", "mutation"]


def test_groups_can_be_dissolved(browse):
    order, sorted_by = browse(
        METHODS
        + """
        heading("base").click();
        const buttons = [...document.querySelectorAll("button")];
        buttons.find((button) => button.textContent.includes("groups")).click();
        return [methods(), heading("base").parentElement.getAttribute("aria-sort")];
        """
    )
    assert order == ["sft", "fgit", "untrained", "dpo", "mutation"]
    assert sorted_by == "descending"


PANEL = """
    const panel = document.getElementById("panel");
    const stages = () => [...panel.querySelectorAll("ol > li > strong")].map((e) => e.textContent);
"""


def test_a_fragment_opens_the_panel_and_escape_closes_it(browse):
    title, stages, text, hidden = browse(
        PANEL
        + """
        const found = [panel.querySelector("h3").textContent, stages(), panel.textContent];
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
        return [...found, panel.hidden];
        """,
        fragment="#cell=main-1-0",
    )
    assert title == "base: 60.0"
    assert stages == ["annotate", "train", "evaluate", "score"]
    assert "6 of 10 problems; 95 % interval" in text and "provenance id" in text
    assert "annotate/tasks/generate/spans.parquet" in text and "polars" in text
    assert hidden


def test_the_keyboard_reaches_every_number(browse):
    focused, shown = browse(
        PANEL
        + """
        const press = (key) => document.activeElement
            .dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        document.querySelector("table.results td[tabindex=\'0\']").focus();
        for (const key of ["ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"]) press(key);
        const focused = document.activeElement.dataset.cell;
        press("Enter");
        return [focused, !panel.hidden && panel.querySelector("h3").textContent];
        """
    )
    assert focused == "main-3-1" and shown == "plus: 20.0"


def test_the_viewer_shows_masks_weights_and_other_runs(browse):
    hybrid, line, weights, epochs, other = browse(
        """
        const viewer = document.getElementById("viewer");
        const all = (selector) => [...viewer.querySelectorAll(selector)];
        const texts = (selector) => all(selector).map((e) => e.textContent);
        const marked = (name) => texts(`td .${name}`);
        const found = [[marked("m1"), marked("m2")]];
        const press = (mode) => viewer.querySelector(`button[data-mode=${mode}]`).click();
        press("line");
        found.push(marked("m1"));
        press("weight");
        found.push([...viewer.querySelectorAll("td .w")].map((e) => e.title));
        found.push(texts(".epochs td"));
        const [run] = viewer.querySelectorAll("select");
        run.value = 2;
        run.dispatchEvent(new Event("change"));
        found.push([texts("p")[0], texts(".legend")[0]]);
        return found;
        """
    )
    assert "+" in hybrid[1] and "-" in hybrid[1] and " b" in hybrid[0]
    assert " return" in line and "+" not in hybrid[0]
    assert any("hybrid 2; as trained: 2; weight 1.650" in title for title in weights)
    assert epochs == ["1", "1.650", "0.625", "0.400"]
    assert other[0].startswith("tiny/tasks/sft/seed-0: objective fixed")
    assert "no token more than weight 1" in other[1]


def test_the_pointer_shows_an_outcome(browse):
    found = browse(
        """
        const cell = document.querySelector("table.matrix tbody tr").cells[1];
        cell.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
        return cell.title;
        """
    )
    assert found == "Easy/0, base: base: pass; plus: pass"


@pytest.mark.parametrize(("flag", "page"), [("0", "rgb(20, 24, 29)"), ("1", "rgb(255, 255, 255)")])
def test_dark_and_light(browse, flag, page):
    found = browse(
        "return getComputedStyle(document.body).backgroundColor;",
        f"--blink-settings=preferredColorScheme={flag}",
    )
    assert found == page


def test_it_prints(html, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={tmp_path / 'out.pdf'}"]
    subprocess.run([*command, path.as_uri()], capture_output=True, timeout=120, check=True)
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")
