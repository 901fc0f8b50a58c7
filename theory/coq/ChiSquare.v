(** * F7: a budget for the chi-square divergence along every path *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation Surrogate.
Import ListNotations.
Open Scope R_scope.

(** From the series, since the library's own proof for every v needs one axiom more. *)
Lemma exp_above v : 0 <= v -> 1 + v <= exp v.
Proof.
  intros H. unfold exp. destruct (exist_exp v) as [l P]. simpl.
  replace (1 + v) with (sum_f_R0 (fun i => / INR (fact i) * v ^ i) 1) by (simpl; field).
  apply sum_incr; [exact P|]. intros n. apply Rmult_le_pos; [|apply pow_le; auto].
  left. apply Rinv_0_lt_compat, lt_0_INR, lt_O_fact.
Qed.

(** The second moment still to come when [c] is left of the budget and the product of the ratios is [m]. *)
Definition to_come (c m : R) : R := m * m * (exp c - 1) - 2 * m * c + c.

Lemma to_come_pos c m : 0 <= c -> 0 <= to_come c m.
Proof.
  intros H. unfold to_come. pose proof (exp_above c H).
  assert (0 <= c * ((m - 1) * (m - 1))) by (apply Rmult_le_pos; [auto|apply Rle_0_sqr]).
  assert (0 <= m * m * (exp c - 1 - c)) by (apply Rmult_le_pos; [apply Rle_0_sqr|lra]). lra.
Qed.

Lemma to_come_step c v m : 0 <= v ->
  (m - 1) * (m - 1) * v + (m * m * (exp (c - v) - 1) * (1 + v) - 2 * m * (c - v) + (c - v)) <= to_come c m.
Proof.
  intros H. unfold to_come. assert (K : (1 + v) * exp (c - v) <= exp c).
  { replace c with (v + (c - v)) at 2 by ring. rewrite exp_plus.
    apply Rmult_le_compat_r; [left; apply exp_pos|apply exp_above; auto]. }
  apply Rmult_le_compat_l with (r := m * m) in K; [lra|apply Rle_0_sqr].
Qed.

(** From a quadratic that is nowhere negative to its discriminant. *)
Lemma discriminant a b c : 0 <= c -> (forall t, 0 <= a - 2 * t * b + t * t * c) -> b * b <= a * c.
Proof.
  intros P H. destruct (Req_dec c 0) as [Z|Z].
  - destruct (Req_dec b 0) as [Y|Y]; [rewrite Z, Y; lra|]. specialize (H ((a + 1) / (2 * b))). rewrite Z in H.
    replace (2 * ((a + 1) / (2 * b)) * b) with (a + 1) in H by (field; auto). lra.
  - specialize (H (b / c)). replace (a - 2 * (b / c) * b + b / c * (b / c) * c) with ((a * c - b * b) * / c) in H by
      (field; auto).
    apply Rmult_le_compat_r with (r := c) in H; [|lra]. rewrite Rmult_assoc, Rinv_l in H by auto. lra.
Qed.

Section ChiSquare.
Variables (V T : nat) (mu pi : policy) (reward : text -> R) (xi C : R).

Local Notation ratios := (ratios mu pi).
Local Notation residual := (residual V T mu pi reward).
Local Notation setting := (setting V mu pi reward xi).

(** v = E_mu [x^2 | s], the chi-square divergence of pi from mu after [s] *)
Definition chi2 (s : text) : R := sum V (fun a => mu s a * ((pi s a / mu s a - 1) * (pi s a / mu s a - 1))).

(** The chi-square divergences along every response that mu can write, however rarely, add up to C at most. *)
Definition chi2_budget : Prop := forall y, can_write V mu y -> length y = T -> spent chi2 y <= C.

(** rho_1 ... rho_T - 1 - sum_t x_t, minus what Lemma 2 weighs the reward with *)
Definition kernel (y : text) : R := product (ratios y) - 1 - excess (ratios y).

Lemma chi2_pos s : is_policy V mu -> 0 <= chi2 s.
Proof. intros M. apply sum_pos. intros a Ha. destruct (M s) as [M0 _]. apply Rmult_le_pos; [auto|apply Rle_0_sqr]. Qed.

(** A second-degree polynomial of the next ratio, averaged. *)
Lemma next_ratio s a b c : setting -> can_write V mu s ->
  sum V (fun i => mu s i * (a + b * (pi s i / mu s i) + c * (pi s i / mu s i * (pi s i / mu s i))))
    = a + b + c * (1 + chi2 s).
Proof.
  intros H W. destruct (mu_policy _ _ _ _ _ H s) as [M0 M1]. destruct (pi_policy _ _ _ _ _ H s) as [_ P1].
  rewrite (sum_ext V _ (fun i => (a - c) * mu s i + (b + 2 * c) * pi s i + c * (mu s i * ((pi s i / mu s i - 1) * (pi
    s i / mu s i - 1))))).
  - rewrite !sum_plus, !sum_scal, M1, P1. fold (chi2 s). ring.
  - intros i Hi. destruct (Req_dec (mu s i) 0) as [Z|Z]; [|field; auto].
    rewrite Z, (support _ _ _ _ _ H s i W Hi Z). ring.
Qed.

Lemma spent_chi2 : is_policy V mu -> chi2_budget -> forall n s, can_write V mu s -> (n + length s = T)%nat ->
  spent chi2 s <= C.
Proof.
  intros M H n. induction n; intros s W N; [apply H; auto|].
  destruct (M s) as [_ M1]. destruct (sum_has_positive V (mu s)) as [a [Ha Pa]]; [lra|].
  assert (K := IHn (a :: s) ltac:(constructor; auto) ltac:(simpl; lia)).
  cbn [spent] in K. pose proof (chi2_pos s M). lra.
Qed.

Lemma second_moment : setting -> chi2_budget -> forall n s, can_write V mu s -> (n + length s = T)%nat ->
  E V mu n s (fun y => kernel y * kernel y) <= kernel s * kernel s + to_come (C - spent chi2 s) (product (ratios s)).
Proof.
  intros H K n. pose proof (mu_policy _ _ _ _ _ H) as M. induction n; intros s W N.
  - simpl. pose proof (to_come_pos (C - spent chi2 s) (product (ratios s))). pose proof (K s W N). lra.
  - set (m := product (ratios s)). set (k := kernel s). set (c := C - spent chi2 s).
    apply Rle_trans with (k * k + ((m - 1) * (m - 1) * chi2 s + (m * m * (exp (c - chi2 s) - 1) * (1 + chi2 s)
      - 2 * m * (c - chi2 s) + (c - chi2 s)))).
    2:{ apply Rplus_le_compat_l, to_come_step, chi2_pos, M. }
    set (q := m * m * (exp (c - chi2 s) - 1)).
    apply Rle_trans with (sum V (fun i => mu s i * (((k - (m - 1)) * (k - (m - 1)) + (c - chi2 s))
      + (2 * (k - (m - 1)) * (m - 1) - 2 * m * (c - chi2 s)) * (pi s i / mu s i)
      + ((m - 1) * (m - 1) + q) * (pi s i / mu s i * (pi s i / mu s i))))).
    + cbn [E]. apply (sum_reached V mu pi reward xi _ _ s H W).
      * intros a Ha Wa. destruct (M s) as [M0 _]. apply Rmult_le_compat_l; auto.
        eapply Rle_trans; [apply (IHn (a :: s) Wa); simpl; lia|]. right. cbn [spent].
        unfold kernel at 1 2. cbn [Surrogate.ratios]. rewrite product_app, excess_app. fold m. simpl product.
        simpl excess.
        replace (excess (ratios s)) with (m - 1 - k) by (unfold k, kernel, m; ring).
        replace (C - (spent chi2 s + chi2 s)) with (c - chi2 s) by (unfold c; ring). unfold to_come, q. ring.
      * intros a Z1 Z2. rewrite Z1. split; ring.
    + rewrite next_ratio by auto. right. ring.
Qed.

Lemma kernel_mean : setting -> E V mu T [] kernel = 0.
Proof.
  intros H. pose proof (mu_policy _ _ _ _ _ H) as M.
  transitivity (E V mu T [] (fun y => 1 * product (ratios y) - 1 - 1 * excess (ratios y))).
  - apply E_ext. intros. unfold kernel. ring.
  - rewrite !E_minus, E_const by auto.
    rewrite (E_product V mu pi (fun _ => 1)), (E_excess V mu pi (fun _ => 1)) by (try constructor; apply H).
    rewrite ahead_constant by apply H. unfold value. rewrite !E_const by apply H. simpl. ring.
Qed.

(** F7 with the spread of the reward around any constant b. If sum_t chi2_t <= C on every path, then
    |Delta| <= sqrt(E_mu (R - b)^2) sqrt(e^C - 1 - C). *)
Theorem F7_spread b : setting -> chi2_budget ->
  Rabs residual <= sqrt (E V mu T [] (fun y => (reward y - b) * (reward y - b))) * sqrt (exp C - 1 - C).
Proof.
  intros H K. pose proof (mu_policy _ _ _ _ _ H) as M.
  set (f := fun y => reward y - b). set (A := E V mu T [] (fun y => f y * f y)).
  set (G := E V mu T [] (fun y => kernel y * kernel y)).
  assert (G0 : 0 <= G) by (apply E_nonneg; [intros; apply M; auto|intros; apply Rle_0_sqr]).
  assert (A0 : 0 <= A) by (apply E_nonneg; [intros; apply M; auto|intros; apply Rle_0_sqr]).
  assert (G1 : G <= exp C - 1 - C).
  { pose proof (second_moment H K T [] ltac:(constructor) ltac:(simpl; lia)) as Q.
    unfold kernel at 3 4, to_come in Q. simpl in Q.
    replace (C - 0) with C in Q by ring. unfold G. lra. }
  assert (R0 : residual = - E V mu T [] (fun y => f y * kernel y)).
  { transitivity (E V mu T [] (fun y => (-1) * (f y * kernel y) - b * kernel y)).
    - unfold Surrogate.residual. apply E_ext. intros y _. pose proof (telescope (ratios y)).
      unfold f, kernel. replace (product (ratios y) - 1) with (excess (ratios y) - leftover (ratios y)) by lra. ring.
    - rewrite E_minus, !E_scal, kernel_mean by auto. ring. }
  assert (CS : residual * residual <= A * G).
  { rewrite R0. rewrite Rmult_opp_opp. apply discriminant; auto. intros t.
    replace (A - 2 * t * E V mu T [] (fun y => f y * kernel y) + t * t * G)
      with (E V mu T [] (fun y => (f y - t * kernel y) * (f y - t * kernel y))).
    - apply E_nonneg; [intros; apply M; auto|intros; apply Rle_0_sqr].
    - unfold A, G. rewrite <- !E_scal, <- E_minus, <- E_plus. apply E_ext. intros. ring. }
  change (Rabs residual <= sqrt A * sqrt (exp C - 1 - C)). rewrite <- sqrt_Rsqr_abs, <- sqrt_mult by lra.
  apply sqrt_le_1_alt. unfold Rsqr.
  eapply Rle_trans; [exact CS|]. apply Rmult_le_compat_l; auto.
Qed.

(** F7, the chi-square budget. If sum_t chi2_t <= C on every path, then |Delta| <= xi sqrt(e^C - 1 - C). *)
Theorem F7 : setting -> chi2_budget -> Rabs residual <= xi * sqrt (exp C - 1 - C).
Proof.
  intros H K. pose proof (mu_policy _ _ _ _ _ H) as M. pose proof (xi_pos _ _ _ _ _ H) as X.
  eapply Rle_trans; [apply (F7_spread 0 H K)|]. apply Rmult_le_compat_r; [apply sqrt_pos|].
  rewrite <- (sqrt_square xi) by auto. apply sqrt_le_1_alt. rewrite <- (E_const V mu T (xi * xi) M []).
  apply E_le; [auto|constructor|]. intros y _ _. rewrite Rminus_0_r.
  pose proof (reward_bound _ _ _ _ _ H y) as B.
  rewrite <- (Rabs_right (reward y * reward y)) by (apply Rle_ge, Rle_0_sqr).
  rewrite Rabs_mult. apply Rmult_le_compat; auto; apply Rabs_pos.
Qed.

End ChiSquare.
