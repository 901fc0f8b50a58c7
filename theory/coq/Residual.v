(** * T2, and what follows from it: Proposition 4, Theorem 1, F3 *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation Surrogate.
Import ListNotations.
Open Scope R_scope.

Section Residual.
Variables (V T : nat) (mu pi : policy) (reward : text -> R) (xi : R).

Local Notation D := (D V mu pi).
Local Notation u := (u V mu pi).
Local Notation E_mu := (E V mu).
Local Notation E_both := (E V (overlap mu pi)).
Local Notation residual := (residual V T mu pi reward).
Local Notation setting := (setting V mu pi reward xi).
Local Notation value := (value V reward).
Local Notation ahead := (ahead V mu pi reward).
Local Notation gap := (gap V mu pi reward).

(** Caps l_t, at every text that mu can write, however rarely. *)
Definition capped (l : nat -> R) : Prop :=
  forall s, can_write V mu s -> (length s < T)%nat -> D s <= l (length s).

(** 1 - (1 - l_k) ... (1 - l_{k+n-1}) *)
Definition some (l : nat -> R) (k n : nat) : R := 1 - prod n (fun i => 1 - l (k + i)%nat).

(** tau_t = 1 - prod_{i>t} (1 - l_i), a bound on the total variation of what follows position t *)
Definition tau (l : nat -> R) (t : nat) : R := some l (S t) (T - S t).

(** r_t = min(1 - prod_{i<t} (1 - l_i), sum_{i<t} u_i), a bound on the drift before position t *)
Definition before (l : nat -> R) (t : nat) : R := Rmin (some l 0 t) (sum t u).

Lemma some_unit l k n : (forall t, 0 <= l t <= 1) -> 0 <= some l k n <= 1.
Proof.
  intros L. unfold some.
  pose proof (prod_unit n (fun i => 1 - l (k + i)%nat) ltac:(intros; specialize (L (k + a)%nat); lra)). lra.
Qed.

Lemma some_step l k n : some l k (S n) = l k + (1 - l k) * some l (S k) n.
Proof.
  unfold some. rewrite prod_shift, Nat.add_0_r.
  rewrite (prod_ext n (fun i => 1 - l (k + S i)%nat) (fun i => 1 - l (S k + i)%nat)) by (intros; do 2 f_equal; lia).
  ring.
Qed.

Lemma value_gap l : setting -> (forall t, 0 <= l t <= 1) -> capped l -> forall n s, can_write V mu s ->
  (n + length s = T)%nat -> Rabs (value pi n s - value mu n s) <= 2 * xi * some l (length s) n.
Proof.
  intros H L C n. pose proof (xi_pos _ _ _ _ _ H) as X. induction n; intros s W N.
  - unfold some. simpl. unfold Surrogate.value. simpl. replace (reward s - reward s) with 0 by ring. rewrite Rabs_R0.
    lra.
  - eapply Rle_trans; [apply (value_step V mu pi reward xi n s (2 * xi * some l (S (length s)) n) H W)|].
    + intros a Wa. apply (IHn (a :: s) Wa). simpl. lia.
    + rewrite some_step. specialize (C s W ltac:(lia)). pose proof (some_unit l (S (length s)) n L).
      assert (0 <= 2 * xi * (l (length s) - D s) * (1 - some l (S (length s)) n))
        by (repeat apply Rmult_le_pos; lra). lra.
Qed.

Lemma total_step n s :
  sum (S n) (fun t => E_mu t s D) = D s + sum V (fun a => mu s a * sum n (fun t => E_mu t (a :: s) D)).
Proof.
  rewrite sum_shift. f_equal. cbn [E]. rewrite <- sum_swap. apply sum_ext. intros a _. rewrite sum_scal. reflexivity.
Qed.

Lemma ahead_bound : setting -> forall n s, can_write V mu s -> Rabs (ahead n s) <= 2 * xi * sum n (fun t => E_mu t s D).
Proof.
  intros H n. induction n; intros s W; [simpl; rewrite Rabs_R0; lra|].
  eapply Rle_trans; [apply (ahead_step V mu pi reward xi n s (fun y => 2 * xi * sum n (fun t => E_mu t y D)) H W);
    auto|].
  rewrite total_step. right. rewrite (sum_ext V _ (fun a => (2 * xi) * (mu s a * sum n (fun t => E_mu t (a :: s) D)))).
  - rewrite sum_scal. ring.
  - intros. ring.
Qed.

(** F3's recursion, unrolled along mu. *)
Lemma gap_unrolled l : setting -> (forall t, 0 <= l t <= 1) -> capped l -> forall n s, can_write V mu s ->
  (n + length s = T)%nat -> Rabs (gap n s) <= 2 * xi *
    sum n (fun t => E_mu t s D - (1 - some l (S (length s + t)) (n - S t)) * E_both t s D).
Proof.
  intros H L C n. induction n; intros s W N.
  - simpl. unfold Surrogate.gap, Surrogate.value. simpl.
    replace (reward s - reward s - 0) with 0 by ring. rewrite Rabs_R0. lra.
  - set (z := fun y => 2 * xi * sum n (fun t => E_mu t y D - (1 - some l (S (length y + t)) (n - S t)) * E_both t y D)).
    eapply Rle_trans; [apply (gap_bound V mu pi reward xi n s (2 * xi * some l (S (length s)) n)
      (fun y => 2 * xi * sum n (fun t => E_mu t y D)) z H W)|].
    + intros a Wa. repeat split.
      * apply (value_gap l H L C n (a :: s) Wa). simpl. lia.
      * apply ahead_bound; auto.
      * apply IHn; auto. simpl. lia.
    + right. rewrite sum_shift. cbn [E]. replace (S n - 1)%nat with n by lia. rewrite Nat.add_0_r.
      rewrite (sum_ext V _ (fun a => (2 * xi) * sum n (fun t => mu s a * E_mu t (a :: s) D
        - (1 - some l (S (length s + S t)) (S n - S (S t))) * (overlap mu pi s a * E_both t (a :: s) D)))).
      * rewrite sum_scal, sum_swap.
        rewrite (sum_ext n _ (fun t => sum V (fun a => mu s a * E_mu t (a :: s) D) - (1 - some l (S (length s + S t))
          (S n - S (S t)))
          * sum V (fun a => overlap mu pi s a * E_both t (a :: s) D))).
        -- ring.
        -- intros. rewrite sum_minus, sum_scal. reflexivity.
      * intros a _. unfold z. simpl length.
        rewrite (sum_ext n (fun t => E_mu t (a :: s) D - (1 - some l (S (S (length s) + t)) (n - S t)) * E_both t (a
          :: s) D)
          (fun t => E_mu t (a :: s) D - (1 - some l (S (length s + S t)) (S n - S (S t))) * E_both t (a :: s) D))
          by (intros; do 3 f_equal; f_equal; lia).
        rewrite sum_minus. rewrite sum_minus, !sum_scal.
        rewrite (sum_ext n (fun t => (1 - some l (S (length s + S t)) (S n - S (S t))) * (overlap mu pi s a * E_both
          t (a :: s) D))
          (fun t => overlap mu pi s a * ((1 - some l (S (length s + S t)) (S n - S (S t))) * E_both t (a :: s) D)))
          by (intros; ring).
        rewrite sum_scal. ring.
Qed.

(** Of what is worth at most [c], not more than [c] times the lost mass is lost. *)
Lemma lost f c t : setting -> (forall y, can_write V mu y -> length y = t -> f y <= c) ->
  E_mu t [] f - E_both t [] f <= c * (1 - E_both t [] (fun _ => 1)).
Proof.
  intros H B. pose proof (mu_policy _ _ _ _ _ H) as M. pose proof (pi_policy _ _ _ _ _ H) as P.
  assert (K : E_both t [] (fun y => c * 1 - f y) <= E_mu t [] (fun y => c * 1 - f y)).
  { apply E_le_part; [intros; apply (overlap_unit V); auto|constructor|].
    intros y W N. simpl in N. specialize (B y W ltac:(lia)). lra. }
  rewrite !E_minus, !E_scal, (E_const V mu t 1 M) in K. lra.
Qed.

Lemma kept_caps l : setting -> (forall t, 0 <= l t <= 1) -> capped l -> forall n s, can_write V mu s ->
  (n + length s <= T)%nat -> 1 - some l (length s) n <= E_both n s (fun _ => 1).
Proof.
  intros H L C n. pose proof (mu_policy _ _ _ _ _ H) as M. pose proof (pi_policy _ _ _ _ _ H) as P.
  induction n; intros s W N; [unfold some; simpl; lra|]. cbn [E]. rewrite some_step.
  apply Rle_trans with (sum V (fun a => overlap mu pi s a * (1 - some l (S (length s)) n))).
  - rewrite sum_scal_r, overlap_sum by auto. specialize (C s W ltac:(lia)). pose proof (some_unit l (S (length s)) n L).
    assert (0 <= (l (length s) - D s) * (1 - some l (S (length s)) n)) by (apply Rmult_le_pos; lra). lra.
  - apply (sum_reached V mu pi reward xi _ _ s H W).
    + intros a Ha Wa. apply Rmult_le_compat_l; [apply (overlap_unit V); auto|]. apply (IHn (a :: s) Wa). simpl. lia.
    + intros a Z1 Z2. rewrite (overlap_zero mu pi s a Z1 Z2). split; ring.
Qed.

Lemma kept_drift t : setting -> 1 - E_both t [] (fun _ => 1) <= sum t u.
Proof.
  intros H. pose proof (mu_policy _ _ _ _ _ H) as M. pose proof (pi_policy _ _ _ _ _ H) as P.
  induction t; [simpl; lra|]. rewrite E_last.
  rewrite (E_ext V (overlap mu pi) t [] _ (fun y => 1 - D y)).
  - rewrite E_minus. assert (K : E_both t [] D <= E_mu t [] D).
    { apply E_le_part; [intros; apply (overlap_unit V); auto|constructor|]. intros. pose proof (D_pos V mu pi y). lra. }
    simpl. unfold Surrogate.u at 2. lra.
  - intros y _. rewrite (sum_ext V _ (overlap mu pi y)) by (intros; ring). apply overlap_sum; auto.
Qed.

Lemma u_pos t : setting -> 0 <= u t.
Proof. intros H. apply E_nonneg; [intros; apply (mu_policy _ _ _ _ _ H); auto|apply D_pos]. Qed.

(** T2. With caps l_t in [0, 1],
    |Delta| <= 2 xi sum_t {tau_t u_t + (1 - tau_t) min(u_t, l_t r_t)}. *)
Theorem T2 l : setting -> (forall t, 0 <= l t <= 1) -> capped l ->
  Rabs residual <= 2 * xi * sum T (fun t => tau l t * u t + (1 - tau l t) * Rmin (u t) (l t * before l t)).
Proof.
  intros H L C. pose proof (mu_policy _ _ _ _ _ H) as M. pose proof (pi_policy _ _ _ _ _ H) as P.
  rewrite residual_gap, Rabs_Ropp by (auto; apply (support _ _ _ _ _ H)).
  eapply Rle_trans; [apply (gap_unrolled l H L C); [constructor|simpl; lia]|].
  apply Rmult_le_compat_l; [pose proof (xi_pos _ _ _ _ _ H); lra|]. apply sum_le. intros t Ht. simpl length.
  change (some l (S (0 + t)) (T - S t)) with (tau l t). change (E_mu t [] D) with (u t).
  assert (F : u t - E_both t [] D <= Rmin (u t) (l t * before l t)).
  { apply Rmin_glb.
    - pose proof (E_nonneg V (overlap mu pi) t D ltac:(intros; apply (overlap_unit V); auto) (D_pos V mu pi) []). lra.
    - eapply Rle_trans; [apply (lost D (l t) t H)|].
      + intros y W N. rewrite <- N. apply C; auto. lia.
      + apply Rmult_le_compat_l; [apply L|]. apply Rmin_glb; [|apply kept_drift; auto].
        pose proof (kept_caps l H L C t [] ltac:(constructor) ltac:(simpl; lia)). simpl length in *. lra. }
  pose proof (some_unit l (S t) (T - S t) L). fold (tau l t) in *.
  assert (0 <= (1 - tau l t) * (Rmin (u t) (l t * before l t) - (u t - E_both t [] D))) by (apply Rmult_le_pos; lra).
  lra.
Qed.

(** T2, its second line. |Delta| <= 2 xi E_mu sum_t D_t: no caps, no budget. *)
Theorem T2_total : setting -> Rabs residual <= 2 * xi * sum T u.
Proof.
  intros H. pose proof (mu_policy _ _ _ _ _ H) as M. pose proof (pi_policy _ _ _ _ _ H) as P.
  eapply Rle_trans; [apply (T2 (fun _ => 1) H)|].
  - intros. lra.
  - intros s _ _. apply D_unit; auto.
  - apply Rmult_le_compat_l; [pose proof (xi_pos _ _ _ _ _ H); lra|]. apply sum_le. intros t Ht.
    pose proof (some_unit (fun _ => 1) (S t) (T - S t) ltac:(intros; lra)). fold (tau (fun _ => 1) t) in *.
    pose proof (Rmin_l (u t) (1 * before (fun _ => 1) t)).
    assert (0 <= (1 - tau (fun _ => 1) t) * (u t - Rmin (u t) (1 * before (fun _ => 1) t))) by (apply Rmult_le_pos;
      lra). lra.
Qed.

Lemma u_cap l t : setting -> capped l -> (t < T)%nat -> u t <= l t.
Proof.
  intros H C Ht. rewrite <- (E_const V mu t (l t) (mu_policy _ _ _ _ _ H) []).
  apply E_le; [apply (mu_policy _ _ _ _ _ H)|constructor|]. intros y W N. simpl in N.
  replace t with (length y) by lia. apply C; auto. lia.
Qed.

(** F3, the cap theorem. If D_t <= l_t on every path, then
    |Delta| <= 2 xi sum_t l_t (1 - prod_{j <> t} (1 - l_j)). *)
Theorem F3 l : setting -> (forall t, 0 <= l t <= 1) -> capped l ->
  Rabs residual <= 2 * xi * sum T (fun t => l t * (1 - prod T (fun j => if (j =? t)%nat then 1 else 1 - l j))).
Proof.
  intros H L C. eapply Rle_trans; [apply (T2 l H L C)|].
  apply Rmult_le_compat_l; [pose proof (xi_pos _ _ _ _ _ H); lra|]. apply sum_le. intros t Ht.
  assert (Q : prod T (fun j => if (j =? t)%nat then 1 else 1 - l j) = (1 - some l 0 t) * (1 - tau l t)).
  { replace T with (t + S (T - S t))%nat at 1 by lia. rewrite prod_split, prod_shift, Nat.add_0_r, Nat.eqb_refl.
    unfold tau, some. rewrite (prod_ext t _ (fun i => 1 - l (0 + i)%nat)).
    - rewrite (prod_ext (T - S t) _ (fun i => 1 - l (S t + i)%nat)); [ring|].
      intros a _. destruct (Nat.eqb_spec (t + S a) t); [lia|]. do 2 f_equal. lia.
    - intros a Ha. destruct (Nat.eqb_spec a t); [lia|]. reflexivity. }
  rewrite Q. pose proof (some_unit l (S t) (T - S t) L) as A1. fold (tau l t) in A1. pose proof (L t).
  pose proof (u_cap l t H C Ht) as U.
  assert (B : Rmin (u t) (l t * before l t) <= l t * some l 0 t)
    by (eapply Rle_trans; [apply Rmin_r|]; apply Rmult_le_compat_l; [lra|apply Rmin_l]).
  assert (0 <= tau l t * (l t - u t)) by (apply Rmult_le_pos; lra).
  assert (0 <= (1 - tau l t) * (l t * some l 0 t - Rmin (u t) (l t * before l t))) by (apply Rmult_le_pos; lra). lra.
Qed.

Lemma some_sum l k n : (forall t, 0 <= l t <= 1) -> some l k n <= sum n (fun i => l (k + i)%nat).
Proof.
  intros L. revert k. induction n; intros k; [unfold some; simpl; lra|]. rewrite some_step, sum_shift, Nat.add_0_r.
  rewrite (sum_ext n (fun i => l (k + S i)%nat) (fun i => l (S k + i)%nat)) by (intros; f_equal; lia).
  specialize (IHn (S k)). pose proof (some_unit l (S k) n L). specialize (L k).
  assert (0 <= l k * some l (S k) n) by (apply Rmult_le_pos; lra). lra.
Qed.

(** sum_t l_t sum_{i<t} v_i = sum_t v_t sum_{j>t} l_j *)
Lemma sum_by_parts (l v : nat -> R) n :
  sum n (fun t => l t * sum t v) = sum n (fun t => v t * sum (n - S t) (fun i => l (S t + i)%nat)).
Proof.
  induction n; [reflexivity|]. cbn [sum]. rewrite IHn, Nat.sub_diag. cbn [sum].
  rewrite (sum_ext n (fun t => v t * sum (S n - S t) (fun i => l (S t + i)%nat))
    (fun t => v t * sum (n - S t) (fun i => l (S t + i)%nat) + l n * v t)).
  - rewrite sum_plus, sum_scal. ring.
  - intros t Ht. replace (S n - S t)%nat with (S (n - S t)) by lia. cbn [sum].
    replace (S t + (n - S t))%nat with n by lia. ring.
Qed.

(** Proposition 4. With caps l_t >= 0, |Delta| <= 4 xi sum_t u_t sum_{j>t} l_j. *)
Theorem prop4 l : setting -> (forall t, 0 <= l t) -> capped l ->
  Rabs residual <= 4 * xi * sum T (fun t => u t * sum (T - S t) (fun i => l (S t + i)%nat)).
Proof.
  intros H L C. set (k := fun t => Rmin 1 (l t)).
  assert (K : forall t, 0 <= k t <= 1) by (intros t; unfold k; split; [apply Rmin_glb; [lra|auto]|apply Rmin_l]).
  assert (k_l : forall t, k t <= l t) by (intros; apply Rmin_r).
  eapply Rle_trans; [apply (T2 k H K)|].
  { intros s W N. apply Rmin_glb; [apply D_unit; [apply (mu_policy _ _ _ _ _ H)|apply (pi_policy _ _ _ _ _ H)]|auto]. }
  replace (4 * xi * sum T (fun t => u t * sum (T - S t) (fun i => l (S t + i)%nat)))
    with (2 * xi * sum T (fun t => u t * sum (T - S t) (fun i => l (S t + i)%nat) + l t * sum t u))
    by (rewrite sum_plus, sum_by_parts; ring).
  apply Rmult_le_compat_l; [pose proof (xi_pos _ _ _ _ _ H); lra|]. apply sum_le. intros t Ht.
  pose proof (some_unit k (S t) (T - S t) K) as A. fold (tau k t) in A. pose proof (u_pos t H).
  assert (B : tau k t <= sum (T - S t) (fun i => l (S t + i)%nat)).
  { eapply Rle_trans; [apply some_sum; auto|]. apply sum_le. auto. }
  assert (U : 0 <= sum t u) by (apply sum_pos; intros; apply u_pos; auto).
  assert (F : Rmin (u t) (k t * before k t) <= l t * sum t u).
  { eapply Rle_trans; [apply Rmin_r|]. apply Rle_trans with (k t * sum t u).
    - apply Rmult_le_compat_l; [apply K|apply Rmin_r].
    - apply Rmult_le_compat_r; auto. }
  apply Rplus_le_compat; [rewrite Rmult_comm; apply Rmult_le_compat_l; lra|].
  assert (0 <= l t * sum t u) by (apply Rmult_le_pos; auto).
  destruct (Rle_dec 0 (Rmin (u t) (k t * before k t))).
  - assert (0 <= tau k t * Rmin (u t) (k t * before k t)) by (apply Rmult_le_pos; lra). lra.
  - assert (0 <= (1 - tau k t) * - Rmin (u t) (k t * before k t)) by (apply Rmult_le_pos; lra). lra.
Qed.

End Residual.
