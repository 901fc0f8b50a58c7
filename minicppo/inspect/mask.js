/* CPPO's mask (Algorithm 1) of one response. D: each token's divergence; away: does it move away from mu?
   rule: {delta, delta_b, w_min, budget, cap_factor, quantile}. Of every token: w, Z = w D, the sums S and W of the
   tokens before it, the limit c, and the reason: 1 kept, toward mu; 2 kept, inside both limits; 3 masked by the
   token limit; 4 by the prefix budget; 5 by both. allowed: the response's own delta_b. */
function cppoSteps(D, away, rule) {
  const T = D.length, steps = { w: [], Z: [], S: [], W: [], c: [], reason: [], allowed: rule.delta_b };
  if (rule.budget === "dynamic") {
    const sorted = [...D].sort((a, b) => a - b), at = rule.quantile * (T - 1), low = Math.floor(at);
    const value = sorted[low] + (at - low) * (sorted[Math.min(low + 1, T - 1)] - sorted[low]);
    steps.allowed = Math.min(rule.cap_factor * rule.delta_b, Math.max(rule.delta_b, value));
  }
  let S = 0, W = 0;
  for (let t = 0; t < T; t++) {
    const w = T === 1 ? 1 : 1 - (1 - rule.w_min) * t / (T - 1), Z = w * D[t];
    const slack = rule.budget === "off" ? Infinity : rule.delta + steps.allowed * W - S;
    const now = { w, Z, S, W, c: Math.min(rule.delta, slack), reason: away[t] ? 2 + (Z > rule.delta) + 2 * (Z > slack) : 1 };
    for (const key in now) steps[key].push(now[key]);
    S += Z;
    W += w;
  }
  return steps;
}
