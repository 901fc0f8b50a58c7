"use strict";
/* What the page says: which rule masks what, and why. It reads the state, T and the verdicts of page.js. */
const list = tokens =>
  tokens.length === 1
    ? `token ${tokens[0] + 1}`
    : `tokens ${tokens
        .slice(0, 6)
        .map(t => t + 1)
        .join(", ")}${tokens.length > 6 ? ` and ${tokens.length - 6} more` : ""}`;

function message() {
  const pick = test => Array.from({ length: T }, (_, t) => t).filter(test),
    off = (rule, t) => found[rule][t] > 2;
  const early = pick(t => off("cppo", t) && !off("dppo", t)),
    late = pick(t => off("dppo", t) && !off("cppo", t));
  const ratio = pick(t => off("ppo", t) && !off("dppo", t) && !off("cppo", t)),
    said = [];
  if (!state.A) return "The advantage is 0: this response is as good as its group, so no rule has anything to mask.";
  const why = early.some(t => found.cppo[t] !== 3)
    ? "the tokens before have used the prefix budget"
    : "its limit is stricter";
  if (early.length) said.push(`CPPO masks ${list(early)}, which DPPO keeps: ${why}.`);
  if (late.length) said.push(`CPPO keeps ${list(late)}, which DPPO masks: few tokens follow, so less can go wrong.`);
  if (ratio.length) said.push(`PPO alone masks ${list(ratio)}: the ratio π/μ moves far, the probability hardly.`);
  return said.join(" ") || "Here the three rules agree. Drag a token up until they do not.";
}

function reasonsOf(t) {
  const { mu, pi, D, A, delta } = state,
    { w, Z, S, W, c, allowed } = found.steps;
  const band = `${1 - CLIP.low} to ${1 + CLIP.high}`,
    ratio = `The ratio π/μ is ${fixed(pi[t] / mu[t], 2)}`;
  const place = "Where the token stands does not matter.",
    limit = `c<sub>t</sub> = ${fixed(c[t])}`;
  const toward = "It moves back toward μ, and such a token is always kept.";
  const ppo = {
    1: `${ratio}. ${toward}`,
    2: `${ratio}, inside ${band}.`,
    3: `${ratio}, outside ${band}, and A = ${A} pushes it further.`,
  };
  const dppo = {
    1: toward,
    2: `D = ${fixed(D[t])} is at most δ = ${fixed(delta)}. ${place}`,
    3: `D = ${fixed(D[t])} is above δ = ${fixed(delta)}. ${place}`,
  };
  const weighed = `w<sub>t</sub> D = ${fixed(w[t], 2)} × ${fixed(D[t])} = ${fixed(Z[t])}`;
  const may = delta + allowed * W[t];
  const told = ` The ${t} tokens before were allowed δ + δ<sub>b</sub> W = ${fixed(may)} and used S = ${fixed(S[t])}`;
  const account = state.budget === "off" ? "" : `${told}, which leaves ${fixed(may - S[t])}.`;
  const cppo = {
    1: `${toward} It still counts in S, because it is drift that has happened.`,
    2: `${weighed} is at most ${limit}.${account}`,
    3: `${weighed} is above δ = ${fixed(delta)}.`,
    4: `${weighed} is below δ, but above ${limit}.${account}`,
    5: `${weighed} is above δ = ${fixed(delta)}, and above what the prefix has left.${account}`,
  };
  return { ppo: ppo[found.ppo[t]], dppo: dppo[found.dppo[t]], cppo: cppo[found.cppo[t]] };
}
