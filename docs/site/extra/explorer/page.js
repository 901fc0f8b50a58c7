"use strict";
const $ = id => document.getElementById(id),
  LEFT = 34,
  TOP = 8,
  BOTTOM = 18;
const NAMES = { none: "no mask", grpo: "GRPO", "dppo-exact": "DPPO", "cppo-exact": "CPPO" };
const COLOURS = { none: "#000000", grpo: "#CC79A7", "dppo-exact": "#009E73", "cppo-exact": "#D55E00" };
const REASONS = [
  "",
  "kept, moves toward μ",
  "kept, inside the limits",
  "masked: too far at this token",
  "masked: the prefix has used the budget",
  "masked: both",
];
const fixed = (x, digits = 3) => Number(x).toFixed(digits),
  percent = x => `${(100 * x).toFixed(1)} %`;
const order = Object.keys(NAMES),
  frames = RUN[order[0]].length,
  positions = RUN.none[0].drift.length;
let method = "cppo-exact",
  at = 0,
  timer = null;

/* One picture: `paint` gets the pen and the two scales, from 0 to `wide` and from 0 to `high`. */
function draw(id, wide, high, paint, ticks) {
  const box = $(id),
    ratio = window.devicePixelRatio || 1,
    width = box.clientWidth;
  const height = +(box.dataset.height ||= box.getAttribute("height"));
  box.style.height = height + "px";
  box.width = width * ratio;
  box.height = height * ratio;
  const pen = box.getContext("2d"),
    y = v => TOP + (height - TOP - BOTTOM) * (1 - Math.min(v, high) / high);
  const x = v => LEFT + ((width - LEFT - 12) * v) / wide;
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = "#333";
  pen.strokeStyle = "#8a8a8a";
  for (const v of [0, high / 2, high]) pen.fillText(high < 1 ? v.toFixed(2) : v.toFixed(1), 2, y(v) + 4);
  pen.beginPath();
  pen.moveTo(LEFT, y(0));
  pen.lineTo(width, y(0));
  pen.stroke();
  pen.textAlign = "center";
  for (const [place, label] of ticks) pen.fillText(label, Math.min(x(place), width - 10), height - 4);
  paint(pen, x, y);
}

function line(pen, points, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

const highest = key => Math.max(0.02, ...order.flatMap(name => RUN[name].flatMap(frame => key(frame))));
const MOST_DRIFT = Math.min(
    highest(frame => frame.drift),
    0.3,
  ),
  stacked = ({ masked }, t) => masked.token[t] + masked.prefix[t] + masked.both[t];
const MOST_MASKED = highest(frame => frame.drift.map((_, t) => stacked(frame, t)));
const places = [0, 8, 16, 24, 32].filter(t => t < positions).map(t => [t + 0.5, t + 1]);

function show() {
  const now = RUN[method][at],
    iterations = RUN[method].map(frame => frame.iteration);
  $("now").value = now.iteration;
  $("time").value = at;
  $("time").setAttribute("aria-valuetext", `iteration ${now.iteration}`);
  draw(
    "accuracy",
    iterations.at(-1),
    1,
    (pen, x, y) => {
      for (const name of order) {
        const points = RUN[name].slice(0, at + 1).map(frame => [x(frame.iteration), y(frame.accuracy)]);
        line(pen, points, COLOURS[name], name === method ? 3 : 1.6);
        pen.fillStyle = COLOURS[name];
        pen.beginPath();
        pen.arc(...points.at(-1), name === method ? 5 : 3.5, 0, 7);
        pen.fill();
      }
    },
    [0, 10, 20, 30, 40].map(i => [i, i]),
  );
  draw(
    "drift",
    positions,
    MOST_DRIFT,
    (pen, x, y) => {
      for (const name of order) {
        const drift = RUN[name][at].drift;
        line(
          pen,
          drift.map((d, t) => [x(t + 0.5), y(d)]),
          name === method ? COLOURS[name] : COLOURS[name] + "77",
          name === method ? 3 : 1.4,
        );
      }
    },
    places,
  );
  draw(
    "masked",
    positions,
    MOST_MASKED,
    (pen, x, y) => {
      now.drift.forEach((_, t) => {
        let low = 0;
        for (const [reason, colour] of [
          ["token", "#0072B2"],
          ["prefix", "#E69F00"],
          ["both", "#E69F00"],
        ]) {
          const high = low + now.masked[reason][t],
            from = x(t) + 1,
            wide = x(1) - x(0) - 2;
          pen.fillStyle = colour;
          pen.fillRect(from, y(high), wide, y(low) - y(high));
          pen.fillStyle = "#0072B2";
          if (reason === "both") pen.fillRect(from, y(high), wide / 2, y(low) - y(high));
          low = high;
        }
      });
    },
    places,
  );
  $("share").textContent = `${NAMES[method]} masks ${percent(now.share)} of the tokens`;
  const mean = drift => drift.reduce((a, b) => a + b, 0) / drift.length;
  $("message").textContent =
    `After ${now.iteration} iterations: ` +
    order
      .map(name => {
        const frame = RUN[name][at];
        return `${NAMES[name]} is right on ${percent(frame.accuracy)}, drift ${fixed(mean(frame.drift))}`;
      })
      .join("; ") +
    ".";
  for (const button of $("methods").children) button.setAttribute("aria-pressed", button.dataset.name === method);
  showResponses(now);
}

function showResponses(now) {
  $("token").textContent = "";
  $("responses").replaceChildren(
    ...now.responses.map(response => {
      const made = document.createElement("p"),
        told = document.createElement("span");
      made.className = "tokens";
      told.textContent = `${response.prompt} `;
      told.title = "the prompt";
      made.append(
        told,
        ...response.tokens.map((token, t) => {
          const button = document.createElement("button"),
            D = Math.abs(response.pi[t] - response.mu[t]);
          button.textContent = token;
          button.className = `r${response.reason[t]}`;
          button.style.backgroundColor = `hsl(28 75% ${Math.round(100 - 58 * Math.min(D / 0.3, 1))}%)`;
          button.setAttribute("aria-label", `token ${t + 1}: ${token}`);
          button.onclick = () => {
            $("token").textContent =
              `Token ${t + 1} “${token}”: μ = ${fixed(response.mu[t])}, π = ${fixed(response.pi[t])}, ` +
              `|π − μ| = ${fixed(D)}; ${REASONS[response.reason[t]]}. The response's advantage is ` +
              `${fixed(response.advantage, 2)}; the right answer is ${response.answer}.`;
          };
          return button;
        }),
      );
      return made;
    }),
  );
}

function play(on) {
  clearInterval(timer);
  timer = on
    ? setInterval(() => {
        if (at === frames - 1) return play(false);
        at++;
        show();
      }, 700)
    : null;
  $("play").textContent = on ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", on);
}

for (const name of order) {
  const button = document.createElement("button");
  button.textContent = NAMES[name];
  button.dataset.name = name;
  button.onclick = () => {
    method = name;
    show();
  };
  $("methods").append(button);
  const entry = document.createElement("span");
  entry.textContent = NAMES[name];
  entry.style.setProperty("--c", COLOURS[name]);
  $("legend").append(entry);
}
$("time").max = frames - 1;
$("time").oninput = () => {
  play(false);
  at = +$("time").value;
  show();
};
$("play").onclick = () => {
  if (!timer && at === frames - 1) at = 0;
  play(!timer);
  show();
};
window.onresize = show;
at = frames - 1;
show();
