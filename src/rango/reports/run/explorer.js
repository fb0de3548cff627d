// The script of a run's page: the cost explorer, the list of mistakes, buttons that copy.
// Its definitions are those of rango.decisions; tests/reports/run/test_page_explorer.py compares the two.
// Every word is in the template (#words), every number in #data. Texts become text nodes, never markup.
"use strict";

const byId = (id) => document.getElementById(id);
const words = JSON.parse(byId("words").textContent);

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// As the tables of the page write numbers: three decimals, a true minus, the decimal sign of the language.
const localised = (text) => text.replace(".", words.decimal);

function written(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : value > 0 ? "∞" : "−∞";
  const small = Math.abs(value) >= 5e-5 && Math.abs(value) < 5e-4;
  return localised((Math.abs(value) < 5e-5 ? 0 : value).toFixed(small ? 4 : 3).replace("-", "−"));
}

const percent = (share) => words.percent.replace("{}", localised((100 * share).toFixed(1)));

// base64 of little-endian float64, row after row.
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 8 }, (_, i) => view.getFloat64(8 * i, true));
}

function isZeroOne(costs) {
  return costs.every((row, k) => row.length === costs.length && row.every((cost, d) => cost === (k === d ? 0 : 1)));
}

// decide: argmin over d of Σ_k C[k][d] q_k, the first on ties; 0-1 costs take the most probable choice.
function bayesDecision(q, costs, zeroOne) {
  if (zeroOne) return q.indexOf(Math.max(...q));
  const decisions = costs[0].length;
  const risks = new Array(decisions).fill(0);
  costs.forEach((row, k) => {
    const least = Math.min(...row);
    for (let d = 0; d < decisions; d++) risks[d] += q[k] * (row[d] - least);
  });
  const bound = Math.min(...risks) * (1 + 1e-14);
  return risks.findIndex((risk) => risk <= bound);
}

// Everything that follows from posteriors (n × K, flat), labels, costs (K × D) and class priors.
// priors: weigh the instances by π_y / p_y; with `adapt` also the posteriors, q_k π_k / p_k, before deciding.
function explore({ posteriors, labels, costs, priors, adapt }) {
  const n = labels.length, K = costs.length, D = costs[0].length, zeroOne = isZeroOne(costs);
  const counts = new Array(K).fill(0);
  for (const label of labels) counts[label]++;
  const own = counts.map((count) => count / n);
  const shares = priors ?? own;
  const confusion = Array.from({ length: K }, () => new Array(D).fill(0));
  const decisions = new Int32Array(n), confidence = new Float64Array(n), cost = new Float64Array(n);
  let promised = 0, real = 0;
  for (let i = 0; i < n; i++) {
    let q = Array.from(posteriors.subarray(i * K, (i + 1) * K));
    if (priors && adapt) {
      q = q.map((value, k) => (shares[k] > 0 ? (value * shares[k]) / own[k] : 0));
      const sum = q.reduce((a, b) => a + b, 0);
      q = q.map((value) => value / sum);
    }
    const d = bayesDecision(q, costs, zeroOne), y = labels[i];
    const weight = priors ? shares[y] / own[y] : 1;
    decisions[i] = d;
    confidence[i] = Math.max(...q);
    cost[i] = costs[y][d];
    confusion[y][d]++;
    if (weight > 0) {
      promised += (weight * q.reduce((sum, value, k) => sum + value * costs[k][d], 0)) / n;
      real += (weight * cost[i]) / n;
    }
  }
  const constants = costs[0].map((_, d) => shares.reduce((sum, share, k) => sum + share * costs[k][d], 0));
  const constantCost = Math.min(...constants);
  return {
    decisions, confidence, cost, confusion, promised, real, constantCost,
    constant: constants.indexOf(constantCost),
    normalised: constantCost > 0 ? real / constantCost : NaN,
  };
}

function copyButtons() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = byId(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
      } catch {
        // Without the right to write, the text is selected, so that Ctrl+C copies it.
        source.closest("details").open = true;
        getSelection().selectAllChildren(source);
      }
      byId("status").textContent = words.copied;
    });
  }
}

function start(data) {
  const K = data.costs.length, labels = data.labels;
  const states = data.states.map((state) => ({ ...state, posteriors: unpacked(state.posteriors) }));
  const classes = data.names ?? data.costs.map((_, k) => `${words.choice} ${k + 1}`);
  const counts = classes.map((_, k) => labels.filter((label) => label === k).length);
  // In a simple explorer an error costs 1 and abstaining what the only field says.
  const simple = !data.matrix;
  const given = simple ? data.costs.map((_, k) => data.costs.map((_, d) => (k === d ? 0 : 1))) : data.costs;
  const base = given[0].length;
  // A column for abstaining stands behind the others, unless the run's costs have more decisions than classes.
  const extra = base <= K;
  const firstAbstain = simple ? data.costs[0][K] ?? 0.3 : 0.3;
  const names = simple ? [...classes] : [...data.decisions];
  let costs = given.map((row) => [...row, ...(extra ? [firstAbstain] : [])]);
  if (extra) names.push(words.abstain);
  let abstain = simple || !extra;
  let priors = counts.map((count) => count / labels.length);
  let priorsGiven = false;
  let result = null, page = 0;

  const usedNames = () => (abstain ? names : names.slice(0, base));
  const usedCosts = () => costs.map((row) => (abstain ? row : row.slice(0, base)));
  // The class that a decision is for, -1 for abstaining and the like; where no decision names a class, none has an error.
  const classOf = names.map((name) => classes.indexOf(name));

  function numberField(value, label, change) {
    const input = element("input", { type: "number", step: "any", value: String(+value.toFixed(4)), "aria-label": label });
    input.addEventListener("input", () => {
      const valid = input.value.trim() !== "" && Number.isFinite(input.valueAsNumber);
      input.setAttribute("aria-invalid", String(!valid));
      if (valid) { change(input.valueAsNumber); update(); }
    });
    return input;
  }

  function drawMatrix() {
    const shown = usedNames();
    if (simple) {
      const field = numberField(costs[0][K], words.costOf.replace("{}", words.abstain), (value) => {
        for (const row of costs) row[K] = value;
      });
      byId("matrix").replaceChildren(
        element("tbody", {}, element("tr", {}, element("th", { scope: "row" }, words.abstainCost), element("td", {}, field)))
      );
      return;
    }
    const head = element("tr", {}, element("th", { scope: "col" }, words.corner));
    for (const name of shown) head.append(element("th", { scope: "col" }, name));
    head.append(element("th", { scope: "col", class: "prior" }, words.prior));
    const body = element("tbody");
    classes.forEach((name, k) => {
      const row = element("tr", {}, element("th", { scope: "row" }, name));
      shown.forEach((decision, d) => {
        const label = words.costWhen.replace("{decision}", decision).replace("{class}", name);
        row.append(element("td", {}, numberField(costs[k][d], label, (value) => { costs[k][d] = value; })));
      });
      const field = numberField(priors[k], words.priorOf.replace("{}", name), (value) => {
        priors[k] = value;
        priorsGiven = true;
      });
      field.setAttribute("min", "0");
      row.append(element("td", { class: "prior" }, field));
      body.append(row);
    });
    byId("matrix").replaceChildren(element("thead", {}, head), body);
  }

  // Shares that sum to 1; null where the fields hold none, or a class without instances would weigh something.
  function target() {
    const sum = priors.reduce((a, b) => a + b, 0);
    const bad = priors.some((share, k) => share < 0 || (share > 0 && counts[k] === 0));
    return bad || !(sum > 0) ? null : priors.map((share) => share / sum);
  }

  function update() {
    const shown = usedNames(), matrix = usedCosts(), shares = target();
    byId("problem").textContent = shares ? "" : words.badPriors;
    if (!shares) return;
    const state = states.find((candidate) => candidate.key === byId("state").value);
    result = explore({
      posteriors: state.posteriors, labels, costs: matrix,
      priors: priorsGiven ? shares : null, adapt: byId("adapt").checked,
    });
    const n = labels.length;
    let answered = 0, wrong = 0;
    result.decisions.forEach((d, i) => {
      if (classOf[d] >= 0) { answered++; wrong += classOf[d] !== labels[i]; }
    });
    // Sums of the same costs in another order differ in their last digits: always passing on costs what it costs.
    const loses = result.real > result.constantCost * (1 + 1e-9);
    const pairs = [
      ["real", words.real, written(result.real)],
      ["promised", words.promised, written(result.promised)],
      ["constant", words.constant.replace("{}", shown[result.constant]), written(result.constantCost)],
      ["normalised", words.normalised, written(result.normalised)],
      ["coverage", words.coverage, percent(answered / n)],
      ["error", words.error, answered ? percent(wrong / answered) : "–"],
    ];
    byId("outcome").replaceChildren(
      ...pairs.map(([key, title, value]) =>
        element("div", { "data-key": key }, element("dt", {}, title), element("dd", {}, value))
      )
    );
    byId("outcome").classList.toggle("loses", loses);
    byId("advice").textContent = loses ? words.loses.replace("{}", shown[result.constant]) : words.wins;
    drawConfusion(shown);
    byId("yaml").textContent = yaml(shown, matrix);
    page = 0;
    drawFilters(shown);
    drawMistakes();
  }

  function drawConfusion(shown) {
    if (simple) return;
    const head = element("tr", {}, element("th", { scope: "col" }, words.corner));
    for (const name of shown) head.append(element("th", { scope: "col" }, name));
    const body = element("tbody");
    result.confusion.forEach((row, k) => {
      const line = element("tr", {}, element("th", { scope: "row" }, classes[k]));
      const sum = Math.max(1, row.reduce((a, b) => a + b, 0));
      row.forEach((count, d) => {
        line.append(element("td", { class: `${classOf[d] === k ? "right " : ""}shade-${Math.round((9 * count) / sum)}` }, String(count)));
      });
      body.append(line);
    });
    byId("decided").replaceChildren(element("caption", {}, words.decidedCaption), element("thead", {}, head), body);
  }

  // JSON is YAML, so that any name is quoted rightly.
  function yaml(shown, matrix) {
    if (simple) return `abstain: ${matrix[0][K]}\n`;
    const lines = [`classes: ${JSON.stringify(classes)}`, `decisions: ${JSON.stringify(shown)}`, "costs:"];
    return `${[...lines, ...matrix.map((row) => `  - ${JSON.stringify(row)}`)].join("\n")}\n`;
  }

  function options(select, entries) {
    const before = select.value;
    select.replaceChildren(...entries.map(([value, text]) => element("option", { value }, text)));
    select.value = entries.some(([value]) => value === before) ? before : entries[0][0];
  }

  function drawFilters(shown) {
    options(byId("filter-true"), [["", words.all], ...classes.map((name, k) => [String(k), name])]);
    options(byId("filter-decided"), [["", words.all], ...shown.map((name, d) => [String(d), name])]);
  }

  function choiceName(i, k) {
    return data.names ? names[k] : data.instances[i].choices?.[k] ?? names[k];
  }

  function drawMistakes() {
    const matrix = usedCosts(), least = matrix.map((row) => Math.min(...row));
    const right = byId("filter-true").value, decided = byId("filter-decided").value;
    const query = byId("search").value.trim().toLowerCase();
    // Beside another system the list is of all that the two decide otherwise, right or wrong.
    const other = otherResult();
    const rows = [];
    for (let i = 0; i < labels.length; i++) {
      if (other ? other.decisions[i] === result.decisions[i] : !(result.cost[i] > least[labels[i]])) continue;
      if (right !== "" && labels[i] !== Number(right)) continue;
      if (decided !== "" && result.decisions[i] !== Number(decided)) continue;
      const instance = data.instances[i];
      if (query && !`${instance.id} ${instance.text} ${(instance.choices ?? []).join(" ")}`.toLowerCase().includes(query)) continue;
      rows.push(i);
    }
    const key = byId("sort").value === "cost" ? result.cost : result.confidence;
    const sign = byId("sort").value === "doubt" ? -1 : 1;
    rows.sort((a, b) => sign * (key[b] - key[a]) || result.confidence[b] - result.confidence[a] || a - b);
    const size = 10, pages = Math.max(1, Math.ceil(rows.length / size));
    page = Math.min(page, pages - 1);
    const cards = rows.slice(page * size, (page + 1) * size).map((i) => card(i, other));
    byId("mistake-list").replaceChildren(...cards);
    byId("mistake-list").setAttribute("start", String(page * size + 1));
    byId("mistake-count").textContent = (other ? words.differ.replace("{name}", () => other.title) : words.count)
      .replace("{n}", String(rows.length)).replace("{page}", String(page + 1)).replace("{pages}", String(pages));
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }

  function otherResult() {
    const state = states.find((candidate) => candidate.key === byId("other").value), shares = target();
    if (!state || !shares || state.key === byId("state").value) return null;
    const options = { labels, costs: usedCosts(), priors: priorsGiven ? shares : null, adapt: byId("adapt").checked };
    return { title: state.title, ...explore({ posteriors: state.posteriors, ...options }) };
  }

  function decision(i, outcome) {
    const right = classOf[outcome.decisions[i]] === labels[i];
    return element("b", right ? {} : { class: "wrong" }, choiceName(i, outcome.decisions[i]));
  }

  function card(i, other) {
    const instance = data.instances[i];
    const line = element("p", { class: "outcome-line" },
      `${words.right} `, element("b", {}, data.names ? classes[labels[i]] : choiceName(i, labels[i])),
      ` · ${words.decided} `, decision(i, result),
      ` · ${words.confidence} ${localised(result.confidence[i].toFixed(2))} · ${words.cost} ${written(result.cost[i])}`);
    if (other) line.append(` · ${other.title}: `, decision(i, other), ` ${localised(other.confidence[i].toFixed(2))}`);
    const identity = element("p", { class: "id" }, instance.id);
    return instance.text ? element("li", {}, element("p", {}, instance.text), line, identity) : element("li", {}, identity, line);
  }

  byId("state").replaceChildren(...states.map((state) => element("option", { value: state.key }, state.title)));
  byId("other").replaceChildren(
    ...[{ key: "", title: words.nothing }, ...states].map(({ key, title }) => element("option", { value: key }, title))
  );
  byId("other").closest("label").hidden = states.length < 2;
  byId("abstain").checked = abstain;
  byId("abstain").closest("label").hidden = simple || !extra;
  byId("adapt").closest("label").hidden = simple;
  for (const label of document.querySelectorAll(".by-class")) label.hidden = !data.names;
  byId("abstain").addEventListener("change", () => { abstain = byId("abstain").checked; drawMatrix(); update(); });
  for (const id of ["state", "adapt"]) byId(id).addEventListener("change", update);
  byId("reset").addEventListener("click", () => {
    costs = given.map((row) => [...row, ...(extra ? [firstAbstain] : [])]);
    priors = counts.map((count) => count / labels.length);
    priorsGiven = false;
    drawMatrix();
    update();
  });
  const filtered = () => { page = 0; drawMistakes(); };
  for (const id of ["filter-true", "filter-decided", "other", "sort"]) byId(id).addEventListener("change", filtered);
  byId("search").addEventListener("input", filtered);
  byId("previous").addEventListener("click", () => { page--; drawMistakes(); });
  byId("next").addEventListener("click", () => { page++; drawMistakes(); });
  drawMatrix();
  update();
  for (const id of ["explorer", "mistake-controls", "pager"]) byId(id).hidden = false;
  byId("without-script").hidden = true;
  // For tests, which compare with Python.
  window.rango = { explore, result: () => result, data, states };
}

copyButtons();
// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not(.values)")) details.open = true;
});
const source = byId("data");
if (source) start(JSON.parse(source.textContent));
