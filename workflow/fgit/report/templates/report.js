"use strict";
// What a click does on the report: sort a table, show what a number rests on, change the view of
// the segments. The page is complete without it, and it loads nothing.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // ---------------------------------------------------------------- sorting

  const NUMBER = /-?\d+(\.\d+)?(e[+-]?\d+)?/;

  // What a table's cell counts as: ours, else the published number, else its text.
  function keyOf(cell) {
    if (cell.dataset.cell) {
      const { value, published } = data.cells[cell.dataset.cell];
      return value ?? published ?? null;
    }
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (!cell.classList.contains("number")) return text;
    const found = text.match(NUMBER);
    return found ? Number(found[0]) : null;
  }

  function compare(a, b, direction) {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing: last
    const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return direction * order;
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const headings = [...table.tHead.rows[0].cells];
    const state = { by: null, direction: 0, dissolved: false };

    function draw() {
      headings.forEach((heading, column) => {
        const sorted = state.by === column && state.direction;
        heading.setAttribute("aria-sort", !sorted ? "none" : sorted > 0 ? "ascending" : "descending");
      });
      table.classList.toggle("dissolved", state.dissolved);
      const blocks = [[]];
      for (const row of rows) {
        if (row.classList.contains("group")) {
          row.hidden = state.dissolved;
          if (!state.dissolved) blocks.push([]);
          blocks.at(-1).heading ??= row;
        } else {
          blocks.at(-1).push(row);
        }
      }
      for (const block of blocks) {
        const keyed = block.map((row) => [state.by === null ? 0 : keyOf(row.cells[state.by]), row]);
        if (state.by !== null) keyed.sort(([a], [b]) => compare(a, b, state.direction));
        if (block.heading) body.append(block.heading);
        body.append(...keyed.map(([, row]) => row));
      }
    }

    headings.forEach((heading, column) => {
      if (!heading.textContent.trim()) return;
      const first = heading.classList.contains("number") ? -1 : 1; // the highest number first
      const button = make("button", { type: "button", title: "sort" }, ...heading.childNodes);
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        if (state.by !== column) Object.assign(state, { by: column, direction: first });
        else if (state.direction === first) state.direction = -first;
        else state.by = null; // the third click: the order of the config
        draw();
      });
    });
    if (rows.some((row) => row.classList.contains("group"))) {
      const button = make(
        "button",
        { type: "button", className: "tool", ariaPressed: "false" },
        "Sort across the groups",
      );
      button.addEventListener("click", () => {
        state.dissolved = !state.dissolved;
        button.ariaPressed = String(state.dissolved);
        draw();
      });
      table.parentElement.before(button);
    }
  }

  // ---------------------------------------------------------------- what a number rests on

  const panel = make("aside", { id: "panel", hidden: true, tabIndex: -1 });
  panel.setAttribute("aria-label", "What the number rests on");
  document.body.append(panel);
  let opener = null;

  function facts(pairs) {
    const list = make("dl");
    for (const [name, value] of pairs) {
      if (value !== null && value !== "") {
        list.append(make("dt", {}, name), make("dd", {}, String(value)));
      }
    }
    return list;
  }

  function stepOf(step) {
    const files = make("table");
    for (const [role, path, digest, state] of step.files) {
      const name = make("td", {}, path);
      if (state) name.append(make("small", {}, ` ${state}`));
      files.append(make("tr", {}, make("td", {}, role), name, make("td", {}, make("code", {}, digest))));
    }
    const shown = [...step.facts, ...step.shared.map(([name, index]) => [name, data.shared[index]])];
    const more = make("details", {}, make("summary", {}, "settings, files, packages, hardware"));
    if (step.files.length) more.append(make("div", { className: "scroll" }, files));
    more.append(facts(shown));
    return make("li", {}, make("strong", {}, step.stage), ` ${step.what} `, make("small", {}, step.when), more);
  }

  function show(cell) {
    const found = data.cells[cell.dataset.cell];
    const heading = cell.closest("table").tHead.rows[0].cells[cell.cellIndex];
    const name = heading.querySelector("button").firstChild.textContent;
    const line = [...cell.parentElement.cells[0].childNodes].map((part) => part.textContent.trim());
    const close = make("button", { type: "button", className: "tool" }, "Close");
    close.addEventListener("click", hide);
    panel.replaceChildren(
      close,
      make("h3", {}, `${name}: ${found.text}`),
      make("p", { className: "quiet" }, line.filter(Boolean).join(" · ")),
    );
    for (const text of cell.title.split("\n")) panel.append(make("p", {}, text));
    for (const [run, key] of found.chains) {
      const chain = data.chains[key];
      panel.append(make("h4", {}, run), facts([["provenance id", chain.id]]));
      panel.append(make("ol", {}, ...chain.steps.map((index) => stepOf(data.steps[index]))));
    }
    opener = cell;
    for (const other of all("td.open")) other.classList.remove("open");
    cell.classList.add("open");
    panel.hidden = false;
    panel.scrollTop = 0;
    panel.focus({ preventScroll: true });
  }

  function hide() {
    if (panel.hidden) return;
    panel.hidden = true;
    opener?.classList.remove("open");
    opener?.focus({ preventScroll: true });
  }

  function openable(table) {
    const cells = all("td[data-cell]", table);
    if (!cells.length) return;
    cells.forEach((cell, index) => (cell.tabIndex = index ? -1 : 0)); // one stop for each table
    table.classList.add("openable");
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td[data-cell]");
      if (cell) show(cell);
    });
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td[data-cell]");
      if (!cell) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        show(cell);
        return;
      }
      const row = cell.parentElement;
      const rows = all("tbody tr:not(.group)", table);
      const beside = {
        ArrowLeft: () => cell.previousElementSibling,
        ArrowRight: () => cell.nextElementSibling,
        ArrowUp: () => rows[rows.indexOf(row) - 1]?.cells[cell.cellIndex],
        ArrowDown: () => rows[rows.indexOf(row) + 1]?.cells[cell.cellIndex],
      }[event.key]?.();
      if (beside?.dataset.cell) {
        event.preventDefault();
        for (const other of cells) other.tabIndex = -1;
        beside.tabIndex = 0;
        beside.focus();
      }
    });
  }

  // ---------------------------------------------------------------- outcomes

  // A problem's outcome in words, when the pointer comes to it: thousands of them stay short.
  function told(table, { letters, runs }) {
    table.addEventListener("mouseover", (event) => {
      const cell = event.target.closest("td");
      if (!cell || cell.title || !cell.closest("tbody")) return;
      const [column, row] = [cell.cellIndex - 1, cell.parentElement.sectionRowIndex];
      const run = table.tHead.rows[0].cells[cell.cellIndex].textContent;
      const outcomes = Object.entries(runs[column]).map(([tests, found]) => `${tests}: ${letters[found[row]]}`);
      cell.title = `${cell.parentElement.cells[0].textContent}, ${run}: ${outcomes.join("; ")}`;
    });
  }

  // ---------------------------------------------------------------- segments

  const MODES = {
    line: "Line mask",
    token: "Token mask",
    hybrid: "Hybrid mask",
    weight: "Weight in training",
  };

  function viewer(place, { texts, masks, runs }) {
    const state = { run: 0, sample: 0, mode: "hybrid", epoch: 0 };
    const number = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits));

    function choice(label, names, chosen) {
      const select = make("select", { ariaLabel: label });
      names.forEach((name, index) => select.append(make("option", { value: index }, name)));
      select.addEventListener("change", () => chosen(Number(select.value)));
      return [select, make("label", {}, label, select)];
    }

    const [runChoice, runLabel] = choice("run", runs.map((run) => run.name), (index) => {
      const id = runs[state.run].samples[state.sample].id;
      const same = runs[index].samples.findIndex((sample) => sample.id === id);
      Object.assign(state, { run: index, sample: Math.max(same, 0), epoch: 0 });
      samples();
      draw();
    });
    const [sampleChoice, sampleLabel] = choice("sample", [], (index) => {
      Object.assign(state, { sample: index, epoch: 0 });
      draw();
    });
    const modes = Object.entries(MODES).map(([mode, label]) => {
      const button = make("button", { type: "button", className: "tool" }, label);
      button.dataset.mode = mode;
      button.addEventListener("click", () => {
        state.mode = mode;
        draw();
      });
      return button;
    });
    const view = make("div");

    function samples() {
      const names = runs[state.run].samples.map((sample) => sample.id);
      sampleChoice.replaceChildren(...names.map((name, index) => make("option", { value: index }, name)));
    }

    // A token over a line break belongs to both lines: its pieces, line by line.
    function lines(tokens, look) {
      const found = [[]];
      tokens.forEach((token, index) => {
        token.split("\n").forEach((piece, position, pieces) => {
          if (position) found.push([]);
          const last = position === pieces.length - 1;
          const marked = look(index);
          const text = piece + (!last && marked.className ? "↵" : "");
          if (text) found.at(-1).push(make("span", marked, text));
        });
      });
      return found;
    }

    function looks(sample, side) {
      const [line, token, marks] = sample.masks[side].map((index) => masks[index]);
      const at = (mask, index) => Number(mask[index] ?? 0);
      const run = runs[state.run];
      const weight = sample.epochs[state.epoch]?.weight ?? null;
      return (index) => {
        const kept = index < sample.kept[side];
        const values = { line: at(line, index), token: at(token, index) };
        values.hybrid = values.line + values.token;
        values.weight = at(marks, index);
        const title = [
          `line ${values.line}, token ${values.token}, hybrid ${values.hybrid}`,
          kept ? `as trained: ${values.weight}` : "cut off in training",
          side === 0 && kept && weight !== null ? `weight ${values.weight ? number(weight) : "1"}` : "",
        ];
        const look = { title: title.filter(Boolean).join("; "), className: kept ? "" : "cut" };
        const value = values[state.mode];
        if (!value || (!kept && state.mode === "weight")) return look;
        if (state.mode === "weight") {
          look.className = side ? "m0" : "w";
          const share = run.scale === null ? 0 : Math.max(0, (weight - 1) / (run.scale - 1));
          if (!side) look.style = `--share: ${share.toFixed(3)}`;
        } else {
          look.className += state.mode === "token" ? " m2" : ` m${value}`;
        }
        return look;
      };
    }

    function legend(run) {
      const shown = {
        line: [["m1", "token of a changed line (1)"]],
        token: [["m2", "token with changed characters (1)"]],
        hybrid: [["m1", "1: of a changed line"], ["m2", "2: changed characters too"]],
        weight: [
          run.scale === null
            ? ["m0", "this run gives no token more than weight 1"]
            : ["w", `of the response: its weight, full colour is ${number(run.scale, 2)}`],
          ["m0", "of the variant: no weight"],
        ],
      }[state.mode];
      const list = make("p", { className: "legend" });
      for (const [name, text] of shown) {
        const key = make("span", { className: name }, "token");
        key.style.setProperty("--share", "1");
        list.append(key, ` ${text} `);
      }
      return list;
    }

    function epochs(sample) {
      const table = make("table", { className: "epochs" });
      const head = ["epoch", "weight w", "response, p̄", "variant, p̄′"];
      table.append(make("tr", {}, ...head.map((text) => make("th", {}, text))));
      sample.epochs.forEach((epoch, index) => {
        const button = make("button", { type: "button", className: "tool" }, String(epoch.epoch));
        button.ariaPressed = String(index === state.epoch);
        button.title = "show this epoch's weight";
        button.addEventListener("click", () => Object.assign(state, { epoch: index, mode: "weight" }) && draw());
        const values = [epoch.weight, epoch.p_response, epoch.p_variant].map((value) => make("td", { className: "number" }, number(value)));
        table.append(make("tr", {}, make("td", {}, button), ...values));
      });
      return table;
    }

    function draw() {
      const run = runs[state.run];
      const sample = run.samples[state.sample];
      const text = texts[sample.text];
      runChoice.value = state.run;
      sampleChoice.value = state.sample;
      for (const button of modes) button.ariaPressed = String(button.dataset.mode === state.mode);
      const sides = text.tokens.map((tokens, side) => lines(tokens, looks(sample, side)));
      const rows = text.pairs.map((pair) =>
        make(
          "tr",
          {},
          ...pair.flatMap((line, side) =>
            line < 0
              ? [make("td", { className: "at none" }), make("td", { className: "none" })]
              : [make("td", { className: "at" }, String(line + 1)), make("td", {}, ...sides[side][line])],
          ),
        ),
      );
      const heads = ["response", "variant"].map((name, side) => name + (sample.kept[side] < text.tokens[side].length ? ", cut in training" : ""));
      const head = make("tr", {}, make("th", { className: "at" }), make("th", {}, heads[0]), make("th", { className: "at" }), make("th", {}, heads[1]));
      const table = make("table", { className: "code tokens" }, make("thead", {}, head), make("tbody", {}, ...rows));
      const about = make("p", { className: "quiet" }, `${run.run}: ${run.method}`);
      view.replaceChildren(about, make("p", { className: "instruction" }, text.instruction), legend(run));
      view.append(table, sample.epochs.length ? epochs(sample) : "");
    }

    samples();
    draw();
    place.replaceChildren(
      make("div", { className: "tools" }, runLabel, sampleLabel, make("span", { role: "group", ariaLabel: "colour by" }, ...modes)),
      view,
    );
  }

  // ---------------------------------------------------------------- the page

  all("table.sortable").forEach(sortable);
  all("table.results").forEach(openable);
  all("table.matrix").forEach((table, index) => told(table, data.outcomes[index]));
  const place = document.getElementById("viewer");
  if (place) viewer(place, data.segments);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  // report.html#cell=TABLE-ROW-COLUMN opens that number.
  function follow() {
    let key;
    try {
      key = decodeURIComponent(location.hash).match(/^#cell=(.+)$/)?.[1];
    } catch {
      return; // not one of ours: a stray % in it
    }
    const cell = key && document.querySelector(`td[data-cell="${CSS.escape(key)}"]`);
    if (!cell) return;
    cell.scrollIntoView({ block: "center" });
    show(cell);
  }
  addEventListener("hashchange", follow);
  follow();
  document.documentElement.classList.add("scripted");
})();
