"use strict";
const $ = id => document.getElementById(id),
  RULES = ["ppo", "dppo", "cppo"],
  LEFT = 34,
  TOP = 8,
  BOTTOM = 18;
const FILL = ["", "#fff", "#b9b9b9", "#0072B2", "#E69F00", "#E69F00"];
const fixed = (x, digits = 3) => (Number.isFinite(x) ? x.toFixed(digits) : "∞");
const settings = { delta: 0.15, delta_b: 0.02, w_min: 0.8, A: 1, budget: "fixed" };
let preset = "Early burst",
  T = 44,
  base,
  edits = new Map(),
  at = 8,
  state,
  found,
  ask = null;

if (RUN["cppo-exact"]) {
  // a response of the demo's run without a mask: pi is where training took it
  const real = RUN["cppo-exact"]
    .flatMap(frame => frame.responses)
    .reduce((best, each) => (masked(each) > masked(best) ? each : best));
  PRESETS["A real trace"] = { T: real.mu.length, real };
}
function masked(response) {
  return response.reason.filter(code => code > 2).length;
}

/* ---- state ---- */
function begin(name) {
  preset = name;
  const { real } = PRESETS[name];
  T = PRESETS[name].T;
  Object.assign(settings, {
    delta: 0.15,
    delta_b: 0.02,
    w_min: 0.8,
    budget: "fixed",
    A: real ? Math.sign(real.advantage) : 1,
  });
  edits.clear();
  at = Math.min(8, T - 1);
  update();
}

function update() {
  const { real } = PRESETS[preset];
  base = real ? { mu: real.mu, move: real.pi.map((p, t) => p - real.mu[t]) } : made(PRESETS[preset], T);
  T = base.mu.length;
  const sign = real || settings.A >= 0 ? 1 : -1; // a made-up response moves as its advantage asks
  const move = base.move.map((d, t) => edits.get(t) ?? sign * Math.min(d, base.mu[t] * 0.96));
  const mu = base.mu,
    D = move.map(Math.abs);
  state = { ...settings, mu, D, pi: mu.map((m, t) => m + move[t]) };
  found = verdicts(state);
  show();
  check();
}

function setMove(t, D, direction = Math.sign(state.pi[t] - state.mu[t]) || 1) {
  const most = direction > 0 ? 1 - state.mu[t] : state.mu[t] - 0.001;
  edits.set(t, direction * Math.max(0, Math.min(D, most, 0.5)));
  at = t;
  update();
}

/* ---- pictures ---- */
const highest = () => Math.max(0.26, ...state.D.map(d => d * 1.1));

function draw(id, paint) {
  const box = $(id),
    ratio = window.devicePixelRatio || 1,
    width = box.clientWidth,
    height = +(box.dataset.height ||= box.getAttribute("height"));
  box.style.height = height + "px";
  box.width = width * ratio;
  box.height = height * ratio;
  const pen = box.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  paint(pen, width, height);
}

function steps(pen, values, x, y, low) {
  pen.beginPath();
  values.forEach((v, t) => {
    const at = y(Math.max(v, low));
    if (t === 0) pen.moveTo(x(0), at);
    else pen.lineTo(x(t), at);
    pen.lineTo(x(t + 1), at);
  });
  pen.stroke();
}

function chart(id, reasons, limit, dotted) {
  draw(id, (pen, width, height) => {
    const high = highest(),
      low = -0.02,
      cell = (width - LEFT) / T,
      x = t => LEFT + t * cell;
    const y = v => TOP + (height - TOP - BOTTOM) * (1 - (Math.min(v, high) - low) / (high - low));
    pen.fillStyle = "#f4f1e8";
    pen.fillRect(x(at) - 0.5, TOP, Math.max(cell, 2) + 1, height - TOP - BOTTOM);
    reasons.forEach((code, t) => {
      const gap = cell > 4 ? 1 : 0,
        wide = Math.max(cell - 2 * gap, 0.8),
        from = y(state.D[t]),
        tall = y(0) - from;
      pen.fillStyle = FILL[code];
      pen.fillRect(x(t) + gap, from, wide, tall);
      if (code === 5) {
        pen.fillStyle = "#0072B2";
        pen.fillRect(x(t) + gap, from, wide / 2, tall);
      }
      if (code === 1) {
        pen.strokeStyle = "#8a8a8a";
        pen.strokeRect(x(t) + gap, from, wide, tall);
      }
    });
    pen.strokeStyle = "#8a8a8a";
    pen.beginPath();
    pen.moveTo(LEFT, y(0));
    pen.lineTo(width, y(0));
    pen.stroke();
    if (dotted) {
      pen.setLineDash([2, 3]);
      steps(pen, dotted, x, y, low);
    }
    pen.setLineDash([]);
    pen.strokeStyle = "#111";
    pen.lineWidth = 1.6;
    steps(pen, limit, x, y, low);
    pen.fillStyle = "#333";
    for (const v of [0, 0.1, 0.2, 0.3, 0.4, 0.5]) if (v < high) pen.fillText(v.toFixed(1), 4, y(v) + 4);
    labels(pen, width, height, x);
  });
}

function labels(pen, width, height, x) {
  const { real } = PRESETS[preset],
    every = real ? 1 : T / 5;
  pen.fillStyle = "#333";
  pen.textAlign = "center";
  for (let t = 0; t < T; t += every)
    pen.fillText(real ? real.tokens[t] : Math.round(t) + 1, Math.min(x(Math.round(t) + 0.5), width - 8), height - 4);
  pen.textAlign = "left";
}

function drawAccount() {
  const { S, W, allowed } = found.steps,
    may = W.map(w => state.delta + allowed * w);
  draw("account", (pen, width, height) => {
    const high = Math.max(...S, ...(state.budget === "off" ? [state.delta] : may)) * 1.08,
      cell = (width - LEFT) / T;
    const x = t => LEFT + t * cell,
      y = v => TOP + (height - TOP - BOTTOM) * (1 - Math.min(v, high) / high);
    pen.lineWidth = 1.8;
    if (state.budget !== "off") steps(pen, may, x, y, 0);
    pen.strokeStyle = "#D55E00";
    pen.setLineDash([6, 4]);
    steps(pen, S, x, y, 0);
    pen.fillStyle = "#333";
    for (const v of [0, high / 1.08]) pen.fillText(v.toFixed(v ? 2 : 0), 2, y(v) + (v ? 8 : 0));
    labels(pen, width, height, x);
  });
}

function show() {
  const { steps: cells } = found,
    limit = limits(state, cells),
    { real } = PRESETS[preset];
  for (const rule of RULES) {
    chart(rule, found[rule], limit[rule], rule === "cppo" ? cells.w.map(w => state.delta / w) : null);
    const count = found[rule].filter(code => code > 2).length;
    $("told-" + rule).textContent = `masks ${count} of ${T} tokens`;
    $(rule).setAttribute("aria-valuenow", state.D[at]);
    $(rule).setAttribute(
      "aria-valuetext",
      `token ${at + 1}, divergence ${fixed(state.D[at])}, ${found[rule][at] > 2 ? "masked" : "kept"}`,
    );
  }
  drawAccount();
  $("message").textContent = message();
  $("which").textContent =
    `Token ${at + 1}${real ? ` “${real.tokens[at]}”` : ""}: μ = ${fixed(state.mu[at])}, ` +
    `π = ${fixed(state.pi[at])}, it moves ${found.away[at] ? "away from" : "toward"} μ`;
  const said = reasonsOf(at);
  $("why").innerHTML = RULES.map(
    rule => {
      const off = found[rule][at] > 2, verdict = `${rule.toUpperCase()} ${off ? "masks" : "keeps"} it.`;
      return `<p class="verdict ${off ? "masked" : ""}"><b>${verdict}</b> ${said[rule]}</p>`;
    },
  ).join("");
  const values = {
    delta: state.delta,
    delta_b: state.delta_b,
    w_min: state.w_min,
    A: state.A,
    T: Math.log2(T),
    at: at + 1,
    D: state.D[at],
  };
  $("at").max = T;
  for (const [id, value] of Object.entries(values)) {
    $(id).value = value;
    $(id).nextElementSibling.value = id === "T" ? T : id === "at" ? at + 1 : fixed(value, id === "A" ? 1 : 3);
  }
  $("budget").value = state.budget;
  $("T").disabled = Boolean(real);
  for (const button of $("presets").children) button.setAttribute("aria-pressed", button.textContent === preset);
}

/* ---- hands ---- */
for (const name of Object.keys(PRESETS)) {
  const button = document.createElement("button");
  button.textContent = name;
  button.onclick = () => begin(name);
  $("presets").append(button);
}
for (const id of ["delta", "delta_b", "w_min", "A"])
  $(id).oninput = () => {
    settings[id] = +$(id).value;
    update();
  };
$("budget").onchange = () => {
  settings.budget = $("budget").value;
  update();
};
$("T").oninput = () => {
  T = Math.round(2 ** $("T").value);
  at = Math.min(at, T - 1);
  for (const t of edits.keys()) if (t >= T) edits.delete(t);
  update();
};
$("at").oninput = () => {
  at = $("at").value - 1;
  update();
};
$("D").oninput = () => setMove(at, +$("D").value);
$("turn").onclick = () => setMove(at, state.D[at], state.pi[at] > state.mu[at] ? -1 : 1);
$("reset").onclick = () => {
  edits.clear();
  update();
};

for (const rule of RULES) {
  const box = $(rule);
  Object.entries({
    tabindex: 0,
    role: "slider",
    "aria-label": `Divergence of a token under ${rule.toUpperCase()}`,
    "aria-valuemin": 0,
    "aria-valuemax": 0.5,
  }).forEach(([key, value]) => box.setAttribute(key, value));
  const move = event => {
    const area = box.getBoundingClientRect(),
      high = dragged ?? highest(),
      low = -0.02,
      tall = area.height - TOP - BOTTOM;
    const t =
      held ?? Math.max(0, Math.min(T - 1, Math.floor((event.clientX - area.left - LEFT) / ((area.width - LEFT) / T))));
    held = t;
    dragged = high;
    setMove(t, low + (high - low) * (1 - (event.clientY - area.top - TOP) / tall));
  };
  let held = null,
    dragged = null;
  box.onpointerdown = event => {
    box.setPointerCapture(event.pointerId);
    move(event);
  };
  box.onpointermove = event => {
    if (held !== null) move(event);
  };
  box.onpointerup = box.onpointercancel = () => {
    held = dragged = null;
  };
  box.onkeydown = event => {
    const key = event.key,
      step = { ArrowUp: 0.005, ArrowDown: -0.005, PageUp: 0.05, PageDown: -0.05 }[key],
      to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: T - 1 }[key];
    if (step) setMove(at, state.D[at] + step);
    else if (to !== undefined) {
      at = Math.max(0, Math.min(T - 1, to));
      update();
    } else if (key === "t" || key === "T") $("turn").click();
    else return;
    event.preventDefault();
  };
}
window.onresize = show;

/* ---- the library, checking ---- */
let waiting = null;
function check() {
  clearTimeout(waiting);
  if (ask)
    waiting = setTimeout(() => {
      const count = differences(state, ask);
      $("checked").textContent = count
        ? `${count} verdicts differ from the library's: please report this.`
        : `✓ Checked against the library: its own Python, run in this page, gives the same ${3 * T} verdicts.`;
    }, 150);
}
begin(preset);
$("checked").textContent =
  location.protocol === "file:"
    ? "Opened as a file. Through a server (python -m http.server) the page also checks itself against the library."
    : "Python is starting, to check these verdicts against the library …";
window.library =
  location.protocol === "file:"
    ? Promise.resolve(null)
    : loadLibrary().then(
        found => {
          ask = found;
          check();
          return found;
        },
        error => {
          $("checked").textContent = `Not checked against the library: ${error.message}`;
          return null;
        },
      );
