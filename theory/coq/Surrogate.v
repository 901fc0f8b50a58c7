(** * Lemma 2 and F1: the surrogate, its residual, and what ties them to J *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation.
Import ListNotations.
Open Scope R_scope.

(** ** Along one response, from its ratios rho_1, ..., rho_T *)

Fixpoint product (l : list R) : R := match l with [] => 1 | r :: later => r * product later end.

(** sum_t x_t, where x_t = rho_t - 1 *)
Fixpoint excess (l : list R) : R := match l with [] => 0 | r :: later => (r - 1) + excess later end.

(** sum_t x_t (1 - rho_{t+1} ... rho_T) *)
Fixpoint leftover (l : list R) : R :=
  match l with [] => 0 | r :: later => (r - 1) * (1 - product later) + leftover later end.

Lemma telescope l : product l - 1 = excess l - leftover l.
Proof. induction l; simpl; lra. Qed.

Lemma product_app l1 l2 : product (l1 ++ l2) = product l1 * product l2.
Proof. induction l1; simpl; [lra|]. rewrite IHl1. ring. Qed.

Lemma excess_app l1 l2 : excess (l1 ++ l2) = excess l1 + excess l2.
Proof. induction l1; simpl; [lra|]. rewrite IHl1. ring. Qed.

Section Surrogate.
Variables (V T : nat) (mu pi : policy) (reward : text -> R) (xi : R).

(** The first ratio is the first token's: texts hold their last token first. *)
Fixpoint ratios (y : text) : list R := match y with [] => [] | a :: s => ratios s ++ [pi s a / mu s a] end.

(** J(q) = E_q R *)
Definition J (q : policy) : R := E V q T [] reward.

(** L' = E_mu [R sum_t x_t] *)
Definition surrogate : R := E V mu T [] (fun y => reward y * excess (ratios y)).

(** Delta = E_mu [R sum_t x_t (1 - prod_{j>t} rho_j)] *)
Definition residual : R := E V mu T [] (fun y => reward y * leftover (ratios y)).

(** u_t = E_mu D_t, the mean divergence at position t = 0 ... T-1 *)
Definition u (t : nat) : R := E V mu t [] (D V mu pi).

(** What every bound assumes: two policies, pi << mu, and rewards of at most xi in size. *)
Record setting : Prop := {
  mu_policy : is_policy V mu;
  pi_policy : is_policy V pi;
  support : absolutely_continuous V pi mu;
  reward_bound : forall y, Rabs (reward y) <= xi }.

(** ** The same from any text [s] on, with [n] tokens to go *)

Definition value (q : policy) n s := E V q n s reward.

(** the surrogate of what follows [s] *)
Fixpoint ahead (n : nat) (s : text) : R := match n with O => 0
  | S n => sum V (fun a => (pi s a - mu s a) * value mu n (a :: s) + mu s a * ahead n (a :: s)) end.

(** what the surrogate misses: minus the residual *)
Definition gap n s := value pi n s - value mu n s - ahead n s.

Lemma E_product : absolutely_continuous V pi mu -> forall n s, is_policy V mu -> can_write V mu s ->
  E V mu n s (fun y => reward y * product (ratios y)) = product (ratios s) * value pi n s.
Proof.
  intros A n. unfold value. induction n; intros s M W; simpl; [ring|]. rewrite <- sum_scal. apply sum_ext. intros a Ha.
  destruct (M s) as [M0 _]. destruct (Rle_lt_or_eq_dec 0 (mu s a) (M0 a Ha)) as [P|P].
  - rewrite IHn by (auto; constructor; auto). simpl. rewrite product_app. simpl. field. lra.
  - rewrite <- P, (A s a W Ha) by auto. ring.
Qed.

Lemma E_excess : absolutely_continuous V pi mu -> forall n s, is_policy V mu -> can_write V mu s ->
  E V mu n s (fun y => reward y * excess (ratios y)) = excess (ratios s) * value mu n s + ahead n s.
Proof.
  intros A n. unfold value. induction n; intros s M W; simpl; [ring|].
  rewrite <- sum_scal, <- sum_plus. apply sum_ext. intros a Ha.
  destruct (M s) as [M0 _]. destruct (Rle_lt_or_eq_dec 0 (mu s a) (M0 a Ha)) as [P|P].
  - rewrite IHn by (auto; constructor; auto). simpl. rewrite excess_app. simpl. unfold value. field. lra.
  - rewrite <- P, (A s a W Ha) by auto. unfold value. ring.
Qed.

Lemma surrogate_ahead : is_policy V mu -> absolutely_continuous V pi mu -> surrogate = ahead T [].
Proof. intros M A. unfold surrogate. rewrite E_excess by (auto; constructor). simpl. ring. Qed.

(** Lemma 2. If pi << mu, then J(pi) - J(mu) = L' - Delta. *)
Theorem lemma2 : is_policy V mu -> absolutely_continuous V pi mu -> J pi - J mu = surrogate - residual.
Proof.
  intros M A. transitivity (E V mu T [] (fun y => reward y * product (ratios y) - reward y)).
  - rewrite E_minus, E_product by (auto; constructor). unfold J, value. simpl. ring_simplify. reflexivity.
  - unfold surrogate, residual. rewrite <- E_minus. apply E_ext. intros y _. pose proof (telescope (ratios y)).
    replace (product (ratios y)) with (1 + (excess (ratios y) - leftover (ratios y))) by lra. ring.
Qed.

Lemma residual_gap : is_policy V mu -> absolutely_continuous V pi mu -> residual = - gap T [].
Proof.
  intros M A. pose proof (lemma2 M A). rewrite surrogate_ahead in H by auto. unfold gap, value. unfold J in H. lra.
Qed.

(** F1. The residual is at most xi times the mean of |rho_1 ... rho_T - 1 - sum_t x_t|, a number that no reward
    enters. *)
Theorem F1 : is_policy V mu -> (forall y, Rabs (reward y) <= xi) ->
  Rabs residual <= xi * E V mu T [] (fun y => Rabs (product (ratios y) - 1 - excess (ratios y))).
Proof.
  intros M X. unfold residual. rewrite <- E_scal. apply E_abs; auto. intros y. pose proof (telescope (ratios y)).
  rewrite Rabs_mult. replace (leftover (ratios y)) with (- (product (ratios y) - 1 - excess (ratios y))) by lra.
  rewrite Rabs_Ropp. apply Rmult_le_compat_r; [apply Rabs_pos|apply X].
Qed.

(** ** One token back: how the gap of [s] comes from those of [a :: s] *)

Lemma value_bounded q n s : is_policy V q -> (forall y, Rabs (reward y) <= xi) -> Rabs (value q n s) <= xi.
Proof. intros. apply E_bounded; auto. Qed.

Lemma gap_step n s : gap (S n) s = sum V (fun a =>
  (pi s a - overlap mu pi s a) * (value pi n (a :: s) - value mu n (a :: s))
  - (mu s a - overlap mu pi s a) * ahead n (a :: s) + overlap mu pi s a * gap n (a :: s)).
Proof.
  unfold gap at 1, value at 1 2. cbn [E ahead]. fold (value mu) (value pi). rewrite <- !sum_minus.
  apply sum_ext. intros a _. unfold gap, value. ring.
Qed.

(** Premises stated for what mu can write suffice, since pi can write nothing else. *)
Lemma sum_reached f g s : setting -> can_write V mu s ->
  (forall a, (a < V)%nat -> can_write V mu (a :: s) -> f a <= g a) ->
  (forall a, mu s a = 0 -> pi s a = 0 -> f a = 0 /\ g a = 0) -> sum V f <= sum V g.
Proof.
  intros H W L Z. apply sum_le. intros a Ha. destruct (mu_policy H s) as [M0 _].
  destruct (Rle_lt_or_eq_dec 0 (mu s a) (M0 a Ha)) as [P|P].
  - apply L; auto. constructor; auto.
  - destruct (Z a) as [F G]; auto; [apply (support H); auto|]. rewrite F, G. lra.
Qed.

Lemma overlap_zero s a : mu s a = 0 -> pi s a = 0 -> overlap mu pi s a = 0.
Proof. intros M P. unfold overlap. rewrite M, P. unfold Rmin. destruct (Rle_dec 0 0); reflexivity. Qed.

Lemma gap_bound n s x y z : setting -> can_write V mu s ->
  (forall a, can_write V mu (a :: s) -> Rabs (value pi n (a :: s) - value mu n (a :: s)) <= x
    /\ Rabs (ahead n (a :: s)) <= y (a :: s) /\ Rabs (gap n (a :: s)) <= z (a :: s)) ->
  Rabs (gap (S n) s) <= x * D V mu pi s
    + sum V (fun a => (mu s a - overlap mu pi s a) * y (a :: s) + overlap mu pi s a * z (a :: s)).
Proof.
  intros H W B. rewrite gap_step. eapply Rle_trans; [apply sum_abs|].
  pose proof (mu_policy H) as M. pose proof (pi_policy H) as P.
  apply Rle_trans with (sum V (fun a => (pi s a - overlap mu pi s a) * x
    + ((mu s a - overlap mu pi s a) * y (a :: s) + overlap mu pi s a * z (a :: s)))).
  - apply (sum_reached _ _ s); auto.
    + intros a Ha Wa. destruct (B a Wa) as [X [Y Z]]. destruct (overlap_unit V mu pi M P s a Ha) as [O0 O1].
      assert (O2 : overlap mu pi s a <= pi s a) by apply Rmin_r.
      eapply Rle_trans; [apply Rabs_triang|]. rewrite <- Rplus_assoc. apply Rplus_le_compat.
      * eapply Rle_trans; [apply Rabs_triang|]. rewrite Rabs_Ropp. apply Rplus_le_compat; apply abs_times; auto; lra.
      * apply abs_times; auto.
    + intros a Z1 Z2. rewrite (overlap_zero s a Z1 Z2), Z1, Z2.
      split; [|ring]. match goal with |- Rabs ?e = 0 => replace e with 0 by ring end. apply Rabs_R0.
  - rewrite sum_plus, sum_scal_r, sum_minus, overlap_sum by auto. destruct (P s) as [_ P1]. rewrite P1. lra.
Qed.

Lemma xi_pos : setting -> 0 <= xi.
Proof. intros H. pose proof (reward_bound H []). pose proof (Rabs_pos (reward [])). lra. Qed.

Lemma value_step n s x : setting -> can_write V mu s ->
  (forall a, can_write V mu (a :: s) -> Rabs (value pi n (a :: s) - value mu n (a :: s)) <= x) ->
  Rabs (value pi (S n) s - value mu (S n) s) <= 2 * xi * D V mu pi s + (1 - D V mu pi s) * x.
Proof.
  intros H W B. pose proof (mu_policy H) as M. pose proof (pi_policy H) as P. pose proof (reward_bound H) as X.
  set (o := overlap mu pi s). replace (value pi (S n) s - value mu (S n) s) with (sum V (fun a =>
    (pi s a - o a) * value pi n (a :: s) - (mu s a - o a) * value mu n (a :: s)
    + o a * (value pi n (a :: s) - value mu n (a :: s)))).
  2:{ unfold value at 5 6. cbn [E]. rewrite <- sum_minus. apply sum_ext. intros. unfold value. ring. }
  eapply Rle_trans; [apply sum_abs|].
  apply Rle_trans with (sum V (fun a => (pi s a - o a) * xi + (mu s a - o a) * xi + o a * x)).
  - apply (sum_reached _ _ s); auto.
    + intros a Ha Wa. destruct (overlap_unit V mu pi M P s a Ha) as [O0 O1]. fold o in O0, O1.
      assert (O2 : o a <= pi s a) by apply Rmin_r.
      eapply Rle_trans; [apply Rabs_triang|]. apply Rplus_le_compat; [|apply abs_times; auto].
      eapply Rle_trans; [apply Rabs_triang|]. rewrite Rabs_Ropp.
      apply Rplus_le_compat; apply abs_times; try apply value_bounded; auto; lra.
    + intros a Z1 Z2. unfold o. rewrite (overlap_zero s a Z1 Z2), Z1, Z2.
      split; [|ring]. match goal with |- Rabs ?e = 0 => replace e with 0 by ring end. apply Rabs_R0.
  - rewrite !sum_plus, !sum_scal_r, !sum_minus. unfold o. rewrite overlap_sum by auto.
    destruct (M s) as [_ M1], (P s) as [_ P1]. rewrite M1, P1. lra.
Qed.

Lemma ahead_step n s x : setting -> can_write V mu s ->
  (forall a, can_write V mu (a :: s) -> Rabs (ahead n (a :: s)) <= x (a :: s)) ->
  Rabs (ahead (S n) s) <= 2 * xi * D V mu pi s + sum V (fun a => mu s a * x (a :: s)).
Proof.
  intros H W B. pose proof (mu_policy H) as M. destruct (M s) as [M0 _]. cbn [ahead].
  eapply Rle_trans; [apply sum_abs|].
  apply Rle_trans with (sum V (fun a => xi * Rabs (pi s a - mu s a) + mu s a * x (a :: s))).
  - apply (sum_reached _ _ s); auto.
    + intros a Ha Wa. eapply Rle_trans; [apply Rabs_triang|]. apply Rplus_le_compat; [|apply abs_times; auto].
      rewrite Rabs_mult, Rmult_comm. apply Rmult_le_compat_r; [apply Rabs_pos|]. apply value_bounded, H; auto.
    + intros a Z1 Z2. rewrite Z1, Z2. replace (0 - 0) with 0 by ring. rewrite Rabs_R0. split; [|ring].
      match goal with |- Rabs ?e = 0 => replace e with 0 by ring end. apply Rabs_R0.
  - rewrite sum_plus, sum_scal. unfold D. lra.
Qed.

End Surrogate.

(** A constant reward leaves nothing to gain. *)
Lemma ahead_constant V mu pi c : is_policy V mu -> is_policy V pi -> forall n s, ahead V mu pi (fun _ => c) n s = 0.
Proof.
  intros M P n. induction n; intros s; [reflexivity|]. cbn [ahead].
  rewrite (sum_ext V _ (fun a => (pi s a - mu s a) * c)).
  - rewrite sum_scal_r, sum_minus. change ((sum V (pi s) - sum V (mu s)) * c = 0).
    destruct (M s) as [_ M1], (P s) as [_ P1]. rewrite M1, P1. ring.
  - intros a _. rewrite IHn. unfold value. rewrite E_const by auto. ring.
Qed.
