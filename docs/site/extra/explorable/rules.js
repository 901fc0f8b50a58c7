"use strict";
/* The three rules of the page on one response. state: mu, pi, D and A of its tokens, and the settings. A verdict is a
   reason of mask.js; the library's own code decides again in library.js. */
const CLIP = { low: 0.2, high: 0.28 };

function verdicts({ mu, pi, D, A, delta, delta_b, w_min, budget }) {
  const away = mu.map((m, t) => A * (pi[t] - m) > 0);
  const beyond = mu.map((m, t) => (A > 0 ? pi[t] / m > 1 + CLIP.high : A < 0 && pi[t] / m < 1 - CLIP.low));
  const steps = cppoSteps(D, away, { delta, delta_b, w_min, budget, cap_factor: 2, quantile: 0.9 });
  return {
    away,
    steps,
    ppo: away.map((moves, t) => (beyond[t] ? 3 : moves ? 2 : 1)),
    dppo: away.map((moves, t) => (moves ? 2 + (D[t] > delta) : 1)),
    cppo: steps.reason,
  };
}

/* Each rule's limit on D at every token. */
function limits({ mu, A, delta }, steps) {
  return {
    ppo: mu.map(m => (A > 0 ? CLIP.high * m : CLIP.low * m)),
    dppo: mu.map(() => delta),
    cppo: steps.c.map((c, t) => c / steps.w[t]),
  };
}

/* A made-up response of T tokens: mu and the signed move pi - mu of each, positive for up. */
const PRESETS = {
  "Early burst": {
    T: 44,
    move: t => ({ 3: 0.1, 4: 0.09, 5: 0.11, 8: 0.05, 11: 0.03, 14: 0.05, 23: 0.05, 35: 0.17, 40: 0.21 })[t],
  },
  "Late burst": {
    T: 44,
    move: t => ({ 8: 0.05, 14: 0.05, 23: 0.05, 36: 0.12, 37: 0.17, 38: 0.17, 39: 0.1, 40: 0.05, 42: 0.03 })[t],
  },
  "Long horizon": { T: 1024, move: (t, T) => (t % 16 === 5 ? 0.02 + (0.2 * t) / T : t % 4 ? 0.004 : 0.028) },
};

function made(preset, T) {
  const mu = [],
    move = [];
  for (let t = 0; t < T; t++) {
    const rare = t % 12 === 7,
      given = preset.move(t, T);
    mu.push(rare ? 0.02 : 0.5);
    move.push(rare ? 0.012 : (given ?? 0.004 + 0.004 * Math.sin(1.7 * t) ** 2));
  }
  return { mu, move };
}
