"use strict";
/* The project's own minicppo/reference, run in the page by pyodide: REFERENCE holds its files. */
const ASK = `
import json
from minicppo.reference.loops import LOOPS, Response
from minicppo.reference.mask import cppo_steps, dynamic_budget, linear_weights
import minicppo.reference.methods

def verdicts(text):
    s = json.loads(text)
    delta, delta_b, w_min, budget = s["delta"], s["delta_b"], s["w_min"], s["budget"]
    response = Response(s["mu"], s["pi"], [s["A"]] * len(s["mu"]), given_divergence=s["D"])
    allowed = {"off": None, "fixed": delta_b}.get(budget, dynamic_budget(s["D"], delta_b))
    weights = linear_weights(len(s["D"]), w_min)
    steps = cppo_steps(s["D"], response.away(), delta=delta, delta_b=allowed, weights=weights)
    kept = {
        "ppo": LOOPS["ppo"](response, clip_low=${CLIP.low}, clip_high=${CLIP.high}),
        "dppo": LOOPS["dppo"](response, delta=delta),
        "cppo": LOOPS["cppo"](response, delta=delta, delta_b=delta_b, w_min=w_min, budget=budget),
    }
    found = {name: [g != 0 for g in weight] for name, weight in kept.items()}
    return json.dumps({**found, "reason": [step.reason for step in steps]})
verdicts
`;
const REASONS = ["", "toward", "inside", "token", "prefix", "both"];

/* Python's verdicts as a function of the page's state. */
async function loadLibrary() {
  await new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "../_static/vendor/pyodide/pyodide.js";
    script.onload = done;
    script.onerror = () => failed(new Error("pyodide.js is not there"));
    document.head.append(script);
  });
  const python = await loadPyodide({ indexURL: "../_static/vendor/pyodide/" });
  for (const [path, text] of Object.entries(REFERENCE)) {
    python.FS.mkdirTree("/home/pyodide/" + path.slice(0, path.lastIndexOf("/")));
    python.FS.writeFile("/home/pyodide/" + path, text);
  }
  const ask = python.runPython(ASK);
  return state => JSON.parse(ask(JSON.stringify(state)));
}

/* How many verdicts of the page differ from the library's. */
function differences(state, ask) {
  const ours = verdicts(state),
    theirs = ask(state);
  let count = 0;
  for (const rule of ["ppo", "dppo", "cppo"])
    ours[rule].forEach((code, t) => {
      count += code < 3 !== theirs[rule][t];
    });
  ours.cppo.forEach((code, t) => {
    count += REASONS[code] !== theirs.reason[t];
  });
  return count;
}
