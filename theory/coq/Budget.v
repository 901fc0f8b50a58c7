(** * F4: a budget for the divergence along every path *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation Surrogate.
Import ListNotations.
Open Scope R_scope.

(** b min(1, b), and what one more token of divergence d does to it *)
Lemma budget_step d b : 0 <= d <= 1 -> 0 <= b ->
  d * Rmin 1 b + d * b + (1 - d) * (b * Rmin 1 b) <= (d + b) * Rmin 1 (d + b).
Proof.
  intros Hd Hb. assert (0 <= d * b) by (apply Rmult_le_pos; lra). assert (0 <= d * d) by (apply Rmult_le_pos; lra).
  assert (0 <= d * b * b) by (apply Rmult_le_pos; auto). unfold Rmin.
  destruct (Rle_dec 1 b), (Rle_dec 1 (d + b)); try lra.
  assert (0 <= (1 - b) * b) by (apply Rmult_le_pos; lra).
  assert (0 <= d * (1 - b) * (1 - b)) by (repeat apply Rmult_le_pos; lra). lra.
Qed.

Section Budget.
Variables (V T : nat) (mu pi : policy) (reward : text -> R) (xi B : R).

Local Notation D := (D V mu pi).
Local Notation total := (spent D).
Local Notation residual := (residual V T mu pi reward).
Local Notation setting := (setting V mu pi reward xi).
Local Notation value := (value V reward).
Local Notation ahead := (ahead V mu pi reward).
Local Notation gap := (gap V mu pi reward).

(** The divergences along every response that mu can write, however rarely, add up to B at most. *)
Definition path_budget : Prop := forall y, can_write V mu y -> length y = T -> total y <= B.

Lemma spent_bounded : is_policy V mu -> path_budget -> forall n s, can_write V mu s -> (n + length s = T)%nat ->
  total s <= B.
Proof.
  intros M H n. induction n; intros s W N; [apply H; auto|].
  destruct (M s) as [_ M1]. destruct (sum_has_positive V (mu s)) as [a [Ha Pa]]; [lra|].
  assert (K := IHn (a :: s) ltac:(constructor; auto) ltac:(simpl; lia)).
  cbn [spent] in K. pose proof (D_pos V mu pi s). lra.
Qed.

Lemma value_budget : setting -> path_budget -> forall n s, can_write V mu s -> (n + length s = T)%nat ->
  Rabs (value pi n s - value mu n s) <= 2 * xi * Rmin 1 (B - total s).
Proof.
  intros H K n s W N. pose proof (xi_pos _ _ _ _ _ H) as X. pose proof (mu_policy _ _ _ _ _ H) as M.
  pose proof (pi_policy _ _ _ _ _ H) as P. pose proof (reward_bound _ _ _ _ _ H) as Rb.
  assert (Rabs (value pi n s - value mu n s) <= 2 * xi).
  { eapply Rle_trans; [apply Rabs_triang|]. rewrite Rabs_Ropp.
    pose proof (value_bounded V reward xi pi n s P Rb). pose proof (value_bounded V reward xi mu n s M Rb). lra. }
  assert (Rabs (value pi n s - value mu n s) <= 2 * xi * (B - total s)).
  { clear H0. revert s W N. induction n; intros s W N.
    - unfold Surrogate.value. simpl. replace (reward s - reward s) with 0 by ring. rewrite Rabs_R0.
      apply Rmult_le_pos; [lra|]. pose proof (K s W ltac:(simpl in N; lia)). lra.
    - eapply Rle_trans; [apply (value_step V mu pi reward xi n s (2 * xi * (B - total s - D s)) H W)|].
      + intros a Wa. replace (B - total s - D s) with (B - total (a :: s)) by (cbn [spent]; ring).
        apply IHn; auto. simpl. lia.
      + pose proof (spent_bounded M K (S n) s W N). pose proof (D_pos V mu pi s).
        assert (S1 : 0 <= B - total s - D s).
        { destruct (M s) as [_ M1]. destruct (sum_has_positive V (mu s)) as [a [Ha Pa]]; [lra|].
          pose proof (spent_bounded M K n (a :: s) ltac:(constructor; auto) ltac:(simpl; lia)) as Q.
          cbn [spent] in Q. lra. }
        assert (0 <= 2 * xi * (D s * (B - total s - D s))) by (apply Rmult_le_pos; [|apply Rmult_le_pos]; lra). lra. }
  unfold Rmin. destruct (Rle_dec 1 (B - total s)); lra.
Qed.

Lemma ahead_budget : setting -> path_budget -> forall n s, can_write V mu s -> (n + length s = T)%nat ->
  Rabs (ahead n s) <= 2 * xi * (B - total s).
Proof.
  intros H K n. pose proof (xi_pos _ _ _ _ _ H) as X. pose proof (mu_policy _ _ _ _ _ H) as M.
  induction n; intros s W N.
  - simpl. rewrite Rabs_R0. apply Rmult_le_pos; [lra|]. pose proof (K s W ltac:(simpl in N; lia)). lra.
  - eapply Rle_trans; [apply (ahead_step V mu pi reward xi n s (fun y => 2 * xi * (B - total y)) H W)|].
    + intros a Wa. apply IHn; auto. simpl. lia.
    + cbn [spent]. rewrite sum_scal_r. destruct (M s) as [_ M1]. rewrite M1. right. ring.
Qed.

Lemma gap_budget : setting -> path_budget -> forall n s, can_write V mu s -> (n + length s = T)%nat ->
  Rabs (gap n s) <= 2 * xi * ((B - total s) * Rmin 1 (B - total s)).
Proof.
  intros H K n. pose proof (xi_pos _ _ _ _ _ H) as X. pose proof (mu_policy _ _ _ _ _ H) as M.
  pose proof (pi_policy _ _ _ _ _ H) as P. induction n; intros s W N.
  - unfold Surrogate.gap, Surrogate.value. simpl. replace (reward s - reward s - 0) with 0 by ring. rewrite Rabs_R0.
    pose proof (K s W ltac:(simpl in N; lia)). apply Rmult_le_pos; [lra|].
    apply Rmult_le_pos; [lra|]. apply Rmin_glb; lra.
  - set (b := B - total s - D s).
    assert (Eb : forall a, B - total (a :: s) = b) by (intros; unfold b; cbn [spent]; ring).
    eapply Rle_trans; [apply (gap_bound V mu pi reward xi n s (2 * xi * Rmin 1 b) (fun _ => 2 * xi * b)
      (fun _ => 2 * xi * (b * Rmin 1 b)) H W)|].
    + intros a Wa. rewrite <- (Eb a). repeat split; [apply value_budget|apply ahead_budget|apply IHn]; auto; simpl; lia.
    + rewrite sum_plus, !sum_scal_r, sum_minus, overlap_sum by auto. destruct (M s) as [_ M1]. rewrite M1.
      assert (b0 : 0 <= b).
      { destruct (sum_has_positive V (mu s)) as [a [Ha Pa]]; [lra|]. rewrite <- (Eb a).
        pose proof (spent_bounded M K n (a :: s) ltac:(constructor; auto) ltac:(simpl; lia)). lra. }
      replace (B - total s) with (D s + b) by (unfold b; ring).
      pose proof (budget_step (D s) b (conj (D_pos V mu pi s) (D_unit V mu pi s M P)) b0) as Q.
      apply Rmult_le_compat_l with (r := 2 * xi) in Q; lra.
Qed.

(** F4, the path budget. If sum_t D_t <= B on every path, then |Delta| <= 2 xi B min(1, B). *)
Theorem F4 : setting -> path_budget -> Rabs residual <= 2 * xi * (B * Rmin 1 B).
Proof.
  intros H K. rewrite residual_gap, Rabs_Ropp by apply H.
  pose proof (gap_budget H K T [] ltac:(constructor) ltac:(simpl; lia)) as Q. simpl in Q. rewrite Rminus_0_r in Q.
  exact Q.
Qed.

End Budget.
