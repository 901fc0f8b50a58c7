(** * Theorem B: what the mask says of a policy one could deploy *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation Surrogate Budget.
Import ListNotations.
Open Scope R_scope.

Section TheoremB.
Variables (V T : nat) (mu pi : policy) (reward : text -> R) (xi : R).
Variables (w : nat -> R) (delta delta_b : R). (* fixed before the response is drawn *)

Local Notation D := (D V mu pi).
Local Notation J := (J V T reward).
Local Notation setting := (setting V mu pi reward xi).
Local Notation value := (value V reward).

(** Z_t = w_t D_t *)
Definition Z (s : text) : R := w (length s) * D s.

(** I_t, the token test: Z_t <= delta, and Z_1 + ... + Z_t <= delta + delta_b (w_1 + ... + w_{t-1}) (Eq. 8) *)
Definition test (s : text) : bool :=
  (if Rle_dec (Z s) delta then true else false)
  && (if Rle_dec (spent Z s + Z s) (delta + delta_b * sum (length s) w) then true else false).

(** pi_g: sample from pi, fall back to mu wherever the test fails. *)
Definition gated : policy := fun s a => if test s then pi s a else mu s a.

(** M_t, the mask: the test, or an update that moves the sampled token back toward mu *)
Definition mask (A : R) (s : text) (a : nat) : R :=
  if test s then 1 else if Rle_dec (A * (pi s a / mu s a - 1)) 0 then 1 else 0.

(** sum_t M_t (rho_t - 1) *)
Fixpoint masked_excess (A : R) (y : text) : R :=
  match y with [] => 0 | a :: s => masked_excess A s + mask A s a * (pi s a / mu s a - 1) end.

(** B is at least what Eq. 8 lets any response spend, sum_t D_t. *)
Definition budget_of_eq8 (B : R) : Prop := forall d : nat -> R,
  (forall t, (t < T)%nat -> 0 <= d t <= 1 /\ w t * d t <= delta
    /\ sum (S t) (fun j => w j * d j) <= delta + delta_b * sum t w) -> sum T d <= B.

(** 1 if the test has failed somewhere along the text, else 0 *)
Fixpoint failed (y : text) : R := match y with [] => 0 | _ :: s => if test s then failed s else 1 end.

Lemma test_true s : test s = true -> Z s <= delta /\ spent Z s + Z s <= delta + delta_b * sum (length s) w.
Proof.
  unfold test. destruct (Rle_dec (Z s) delta); [|discriminate].
  destruct (Rle_dec (spent Z s + Z s) (delta + delta_b * sum (length s) w)); [auto|discriminate].
Qed.

Lemma gated_policy : is_policy V mu -> is_policy V pi -> is_policy V gated.
Proof.
  intros M P s. unfold gated. destruct (test s).
  - destruct (P s). auto.
  - destruct (M s). auto.
Qed.

Lemma gated_setting : setting -> Surrogate.setting V mu gated reward xi.
Proof.
  intros [M P A X]. constructor; auto; [apply gated_policy; auto|].
  intros s a W Ha E0. unfold gated. destruct (test s); auto.
Qed.

Lemma gated_D s : Expectation.D V mu gated s = if test s then D s else 0.
Proof.
  unfold Expectation.D, gated. destruct (test s); [reflexivity|].
  rewrite (sum_ext V _ (fun _ => 0 * 0)); [rewrite sum_scal; ring|].
  intros. replace (mu s a - mu s a) with 0 by ring. rewrite Rabs_R0. ring.
Qed.

(** pi_g keeps Eq. 8 along every text: its divergences are one of the sequences that [budget_of_eq8] speaks of. *)
Lemma gated_keeps_eq8 : setting -> (forall t, 0 <= w t) -> 0 <= delta -> 0 <= delta_b -> forall s, exists d : nat -> R,
  (forall t, (t < length s)%nat -> 0 <= d t <= 1 /\ w t * d t <= delta
    /\ sum (S t) (fun j => w j * d j) <= delta + delta_b * sum t w)
  /\ sum (length s) d = spent (Expectation.D V mu gated) s
  /\ sum (length s) (fun j => w j * d j) <= spent Z s
  /\ sum (length s) (fun j => w j * d j) <= delta + delta_b * sum (length s) w.
Proof.
  intros [M P _ _] W Hd Hb s. induction s as [|a s [d [Eq8 [Sum [Low In]]]]].
  - exists (fun _ => 0). simpl. repeat split; try lra. intros; lia.
  - set (g := Expectation.D V mu gated s). set (n := length s) in *. exists (fun t => if (t =? n)%nat then g else d t).
    assert (Old : forall f k, (k <= n)%nat ->
      sum k (fun j => f j (if (j =? n)%nat then g else d j)) = sum k (fun j => f j (d j))).
    { intros f k K. apply sum_ext. intros j Hj. destruct (Nat.eqb_spec j n); [lia|reflexivity]. }
    assert (G : 0 <= g <= 1) by (split; [apply D_pos|apply D_unit; [auto|apply gated_policy; auto]]).
    assert (Z0 : 0 <= Z s) by (apply Rmult_le_pos; [auto|apply D_pos]).
    assert (New : w n * g <= delta /\ w n * g <= Z s
      /\ sum n (fun j => w j * d j) + w n * g <= delta + delta_b * sum n w).
    { unfold g. rewrite gated_D. destruct (test s) eqn:Ts.
      - destruct (test_true s Ts) as [T1 T2]. fold n in T2. change (w n * D s) with (Z s). lra.
      - rewrite Rmult_0_r. repeat split; lra. }
    assert (Wn : 0 <= delta_b * w n) by (apply Rmult_le_pos; auto).
    cbn [length]. fold n. split; [|split; [|split]].
    + intros t Ht. cbn [sum]. rewrite (Old (fun j x => w j * x)) by lia.
      destruct (Nat.eqb_spec t n) as [->|Ne]; [repeat split; apply G || apply New|apply (Eq8 t); lia].
    + cbn [sum spent]. rewrite (Old (fun _ x => x)), Nat.eqb_refl by lia. fold g. rewrite <- Sum. reflexivity.
    + cbn [sum spent]. rewrite (Old (fun j x => w j * x)), Nat.eqb_refl by lia. lra.
    + cbn [sum]. rewrite (Old (fun j x => w j * x)), Nat.eqb_refl by lia. lra.
Qed.

(** The mask is pessimistic: along what mu can write it never exceeds the gated policy's own surrogate. *)
Lemma mask_pessimistic A y : can_write V mu y -> masked_excess A y * A <= excess (ratios mu gated y) * A.
Proof.
  intros H. induction H as [|s a H IH Ha Pa]; [simpl; lra|].
  cbn [masked_excess Surrogate.ratios]. rewrite excess_app. cbn [excess]. unfold mask.
  change (gated s a) with (if test s then pi s a else mu s a). destruct (test s); [lra|].
  replace (mu s a / mu s a) with 1 by (field; lra).
  destruct (Rle_dec (A * (pi s a / mu s a - 1)) 0); lra.
Qed.

(** Theorem B. Let D be the exact total variation, w, delta, delta_b fixed, b a number that depends on the prompt
    only, A = R - b and M the CPPO mask. With B the path budget of Eq. 8,
    J(pi_g) >= J(mu) + E_mu [sum_t M_t (rho_t - 1) A] - 2 xi B min(1, B). *)
Theorem theoremB b B : setting -> (forall t, 0 <= w t) -> 0 <= delta -> 0 <= delta_b -> budget_of_eq8 B ->
  J mu + E V mu T [] (fun y => masked_excess (reward y - b) y * (reward y - b)) - 2 * xi * (B * Rmin 1 B) <= J gated.
Proof.
  intros H W Hd Hb HB. pose proof (gated_setting H) as G.
  pose proof (mu_policy _ _ _ _ _ G) as M. pose proof (support _ _ _ _ _ G) as A.
  assert (F : Rabs (residual V T mu gated reward) <= 2 * xi * (B * Rmin 1 B)).
  { apply F4; auto. intros y _ N. destruct (gated_keeps_eq8 H W Hd Hb y) as [d [Eq8 [Sum _]]].
    rewrite N in *. rewrite <- Sum. apply HB. auto. }
  pose proof (lemma2 V T mu gated reward M A) as L. pose proof (Rle_abs (residual V T mu gated reward)).
  assert (S0 : E V mu T [] (fun y => excess (ratios mu gated y)) = 0).
  { transitivity (E V mu T [] (fun y => 1 * excess (ratios mu gated y))); [apply E_ext; intros; ring|].
    rewrite (E_excess V mu gated (fun _ => 1)) by (auto; constructor).
    rewrite ahead_constant by (auto; apply G). simpl. ring. }
  assert (S1 : E V mu T [] (fun y => masked_excess (reward y - b) y * (reward y - b)) <= surrogate V T mu gated reward).
  { apply Rle_trans with (E V mu T [] (fun y => reward y * excess (ratios mu gated y) - b * excess (ratios mu gated
      y))).
    - apply E_le; [auto|constructor|]. intros y Wy _. pose proof (mask_pessimistic (reward y - b) y Wy). lra.
    - rewrite E_minus, E_scal, S0. unfold surrogate. lra. }
  lra.
Qed.

(** The simplest B: (delta + delta_b (w_1 + ... + w_{T-1})) / w_min. *)
Lemma simple_budget w_min : 0 < w_min -> (forall t, w_min <= w t) -> 0 <= delta -> 0 <= delta_b ->
  budget_of_eq8 ((delta + delta_b * sum (T - 1) w) / w_min).
Proof.
  intros W0 W Hd Hb d Eq8. apply Rmult_le_reg_r with w_min; [auto|].
  unfold Rdiv. rewrite Rmult_assoc, Rinv_l, Rmult_1_r, <- sum_scal_r by lra. destruct T as [|n].
  - simpl. lra.
  - replace (S n - 1)%nat with n by lia. destruct (Eq8 n ltac:(lia)) as [_ [_ Q]]. eapply Rle_trans; [|exact Q].
    apply sum_le. intros t Ht. destruct (Eq8 t Ht) as [D0 _]. rewrite Rmult_comm. apply Rmult_le_compat_r; [lra|auto].
Qed.

(** Theorem B, second line, sharper. |J(pi) - J(pi_g)| <= 2 xi E_pi sum_t (1 - I_t) D_t. *)
Theorem theoremB_distance : setting ->
  Rabs (J pi - J gated) <= 2 * xi * E V pi T [] (spent (fun s => if test s then 0 else D s)).
Proof.
  intros [M P A X]. set (c := fun s => if test s then 0 else D s).
  assert (K : forall n s, Rabs (value pi n s - value gated n s) <= 2 * xi * (E V pi n s (spent c) - spent c s)).
  { induction n; intros s.
    - unfold Surrogate.value. simpl. replace (reward s - reward s) with 0 by ring. rewrite Rabs_R0. lra.
    - destruct (P s) as [P0 P1]. replace (value pi (S n) s - value gated (S n) s) with (sum V (fun a =>
        (pi s a - gated s a) * value gated n (a :: s) + pi s a * (value pi n (a :: s) - value gated n (a :: s))))
        by (unfold Surrogate.value; cbn [E]; rewrite <- sum_minus; apply sum_ext; intros; ring).
      eapply Rle_trans; [apply sum_abs|].
      apply Rle_trans with (sum V (fun a => xi * Rabs (pi s a - gated s a)
        + ((2 * xi) * (pi s a * E V pi n (a :: s) (spent c)) - (2 * xi * (spent c s + c s)) * pi s a))).
      + apply sum_le. intros a Ha. specialize (IHn (a :: s)). cbn [spent] in IHn.
        eapply Rle_trans; [apply Rabs_triang|]. apply Rplus_le_compat.
        * rewrite Rabs_mult, Rmult_comm. apply Rmult_le_compat_r; [apply Rabs_pos|].
          apply value_bounded; [apply gated_policy; auto|auto].
        * eapply Rle_trans; [apply abs_times; [apply P0; auto|exact IHn]|]. lra.
      + rewrite sum_plus, sum_minus, !sum_scal, P1.
        assert (Q : sum V (fun a => Rabs (pi s a - gated s a)) = 2 * c s).
        { unfold c, gated. destruct (test s); [|unfold Expectation.D; lra].
          rewrite (sum_ext V _ (fun _ => 0 * 0)); [rewrite sum_scal; ring|].
          intros. replace (pi s a - pi s a) with 0 by ring. rewrite Rabs_R0. ring. }
        rewrite Q. cbn [E]. lra. }
  specialize (K T []). simpl spent in K at 2. unfold Surrogate.J. unfold Surrogate.value in K.
  rewrite Rminus_0_r in K. exact K.
Qed.

(** Theorem B, second line as first stated. |J(pi) - J(pi_g)| <= 2 xi P_pi(some I_t fails). *)
Theorem theoremB_failure : setting -> Rabs (J pi - J gated) <= 2 * xi * E V pi T [] failed.
Proof.
  intros H. pose proof (xi_pos _ _ _ _ _ H) as X0. destruct H as [M P A X]. pose proof (gated_policy M P) as G.
  assert (One : forall n s, failed s = 1 -> E V pi n s failed = 1).
  { induction n; intros s F; [exact F|]. destruct (P s) as [_ P1]. cbn [E].
    rewrite (sum_ext V _ (pi s)); [exact P1|]. intros a _.
    rewrite IHn; [ring|]. cbn [failed]. destruct (test s); auto. }
  assert (K : forall n s, failed s = 0 -> Rabs (value pi n s - value gated n s) <= 2 * xi * E V pi n s failed).
  { induction n; intros s F.
    - unfold Surrogate.value. simpl. replace (reward s - reward s) with 0 by ring. rewrite Rabs_R0, F. lra.
    - destruct (P s) as [P0 P1]. destruct (test s) eqn:Ts.
      + unfold Surrogate.value. cbn [E]. unfold gated at 1. rewrite Ts. fold (value pi) (value gated).
        rewrite <- sum_minus, <- sum_scal. eapply Rle_trans; [apply sum_abs|]. apply sum_le. intros a Ha.
        replace (2 * xi * (pi s a * E V pi n (a :: s) failed)) with (pi s a * (2 * xi * E V pi n (a :: s) failed)) by
          ring.
        rewrite <- Rmult_minus_distr_l. apply abs_times; auto. apply IHn. cbn [failed]. rewrite Ts. exact F.
      + assert (Q : E V pi (S n) s failed = 1).
        { cbn [E]. rewrite (sum_ext V _ (pi s)); [exact P1|]. intros a _.
          rewrite One; [ring|]. cbn [failed]. rewrite Ts. reflexivity. }
        rewrite Q. eapply Rle_trans; [apply Rabs_triang|]. rewrite Rabs_Ropp.
        pose proof (value_bounded V reward xi pi (S n) s P X).
        pose proof (value_bounded V reward xi gated (S n) s G X). lra. }
  exact (K T [] eq_refl).
Qed.

End TheoremB.
