(** * F3 cannot be improved: two policies that come as near to its bound as one likes *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation Surrogate Residual.
Import ListNotations.
Open Scope R_scope.

(** A product over all positions but one, taken apart at the first. *)
Lemma prod_but n (l : nat -> R) t :
  prod (S n) (fun j => if (j =? S t)%nat then 1 else 1 - l j)
    = (1 - l O) * prod n (fun j => if (j =? t)%nat then 1 else 1 - l (S j)).
Proof. rewrite prod_shift. reflexivity. Qed.

Section Attained.
Variable l : nat -> R.

(** Token 1 is rare under [mu e], with chance [e]; [pi e] moves a share l_t of everything to it. *)
Definition mu (e : R) : policy := fun _ a => match a with O => 1 - e | _ => e end.
Definition pi (e : R) : policy := fun s a =>
  match a with O => (1 - l (length s)) * (1 - e) | _ => (1 - l (length s)) * e + l (length s) end.

(** Exactly one rare token loses, any other number of them wins. *)
Definition of_count (c : nat) : R := match c with 1%nat => -1 | _ => 1 end.
Fixpoint rare (y : text) : nat := match y with [] => O | a :: s => (match a with O => O | _ => 1 end + rare s)%nat end.
Definition reward (y : text) : R := of_count (rare y).

Local Notation value q n s := (value 2 reward q n s).
Local Notation ahead e n s := (ahead 2 (mu e) (pi e) reward n s).
Local Notation none k n := (prod n (fun i => 1 - l (k + i)%nat)).

(** The chance of exactly one rare token among n, from position k on, when [e] is 0 *)
Fixpoint one (k n : nat) : R :=
  match n with O => 0 | S n => (1 - l k) * one (S k) n + l k * none (S k) n end.

Lemma none_step k n : none k (S n) = (1 - l k) * none (S k) n.
Proof.
  rewrite prod_shift, Nat.add_0_r. f_equal. apply prod_ext. intros. do 2 f_equal. lia.
Qed.

Lemma one_sum k n : one k n = sum n (fun t => l (k + t)%nat
  * prod n (fun j => if (j =? t)%nat then 1 else 1 - l (k + j)%nat)).
Proof.
  revert k. induction n; intros k; [reflexivity|]. cbn [one]. rewrite sum_shift, IHn, Nat.add_0_r, <- sum_scal.
  rewrite Rplus_comm. f_equal.
  - rewrite prod_shift. simpl Nat.eqb. cbv iota. rewrite Rmult_1_l. f_equal. apply prod_ext. intros. do 2 f_equal. lia.
  - apply sum_ext. intros t _. rewrite (prod_but n (fun j => l (k + j)%nat) t), Nat.add_0_r.
    rewrite (prod_ext n (fun j => if (j =? t)%nat then 1 else 1 - l (k + S j)%nat)
      (fun j => if (j =? t)%nat then 1 else 1 - l (S k + j)%nat)).
    + replace (k + S t)%nat with (S k + t)%nat by lia. ring.
    + intros j _. destruct (j =? t)%nat; [reflexivity|]. do 2 f_equal. lia.
Qed.

(** ** The limit, e = 0 *)

Lemma mu_limit n : forall s, value (mu 0) n s = of_count (rare s).
Proof.
  induction n; intros s; [reflexivity|]. unfold Surrogate.value in *. cbn [E sum mu].
  rewrite (IHn (0%nat :: s)). simpl rare. ring.
Qed.

Lemma pi_limit n : forall s, value (pi 0) n s =
  match rare s with O => 1 - 2 * one (length s) n | 1%nat => 1 - 2 * none (length s) n | _ => 1 end.
Proof.
  induction n; intros s.
  - unfold Surrogate.value, reward, of_count. simpl. destruct (rare s) as [|[|c]]; lra.
  - unfold Surrogate.value in *. cbn [E sum pi]. rewrite (IHn (0%nat :: s)), (IHn (1%nat :: s)). cbn [length one].
    rewrite none_step. simpl rare. destruct (rare s) as [|[|c]]; ring.
Qed.

Lemma ahead_limit n : forall s, rare s = O -> ahead 0 n s = -2 * sum n (fun t => l (length s + t)%nat).
Proof.
  induction n; intros s H; [simpl; ring|]. cbn [Surrogate.ahead sum mu pi].
  rewrite !mu_limit, (IHn (0%nat :: s)) by exact H. simpl rare. rewrite H. simpl of_count. cbn [length].
  change (sum n (fun t => l (length s + t)%nat) + l (length s + n)%nat)
    with (sum (S n) (fun t => l (length s + t)%nat)).
  rewrite sum_shift, Nat.add_0_r.
  rewrite (sum_ext n (fun k => l (length s + S k)%nat) (fun t => l (S (length s) + t)%nat)) by (intros; f_equal; lia).
  ring.
Qed.

(** ** Everything is continuous in e *)

Lemma c_const c : continuity_pt (fun _ => c) 0.
Proof. apply continuity_pt_const. intros ? ?. reflexivity. Qed.
Lemma c_id : continuity_pt (fun e => e) 0.
Proof. apply (derivable_continuous_pt id), derivable_pt_id. Qed.
Lemma c_plus f g : continuity_pt f 0 -> continuity_pt g 0 -> continuity_pt (fun e => f e + g e) 0.
Proof. apply continuity_pt_plus. Qed.
Lemma c_minus f g : continuity_pt f 0 -> continuity_pt g 0 -> continuity_pt (fun e => f e - g e) 0.
Proof. apply continuity_pt_minus. Qed.
Lemma c_mult f g : continuity_pt f 0 -> continuity_pt g 0 -> continuity_pt (fun e => f e * g e) 0.
Proof. apply continuity_pt_mult. Qed.

Ltac continuous := repeat (apply c_const || apply c_id || apply c_minus || apply c_plus || apply c_mult).

Lemma mu_continuous a s : continuity_pt (fun e => mu e s a) 0.
Proof. destruct a; unfold mu; continuous. Qed.

Lemma pi_continuous a s : continuity_pt (fun e => pi e s a) 0.
Proof. destruct a; unfold pi; continuous. Qed.

Lemma value_continuous (q : R -> policy) : (forall a s, continuity_pt (fun e => q e s a) 0) ->
  forall n s, continuity_pt (fun e => value (q e) n s) 0.
Proof.
  intros Q n. unfold Surrogate.value. induction n; intros s; cbn [E sum]; continuous; auto.
Qed.

Lemma ahead_continuous n : forall s, continuity_pt (fun e => ahead e n s) 0.
Proof.
  induction n; intros s; cbn [Surrogate.ahead sum]; continuous;
    try apply pi_continuous; try apply mu_continuous; try apply (value_continuous mu mu_continuous); auto.
Qed.

Lemma fine_setting e : (forall t, 0 <= l t <= 1) -> 0 < e < 1 -> setting 2 (mu e) (pi e) reward 1.
Proof.
  intros L H. constructor.
  - intros s. split; [intros [|a] _; simpl; lra|simpl; lra].
  - intros s. specialize (L (length s)). split; [intros [|a] _; simpl|simpl; lra].
    + apply Rmult_le_pos; lra.
    + assert (0 <= (1 - l (length s)) * e) by (apply Rmult_le_pos; lra). lra.
  - intros s [|a] _ _ Z; simpl in Z; lra.
  - intros y. unfold reward, of_count. destruct (rare y) as [|[|c]]; unfold Rabs; destruct (Rcase_abs _); lra.
Qed.

Lemma fine_caps e T : (forall t, 0 <= l t <= 1) -> 0 < e < 1 -> capped 2 T (mu e) (pi e) l.
Proof.
  intros L H s _ _. specialize (L (length s)). unfold D. cbn [sum mu pi].
  assert (0 <= l (length s) * (1 - e)) by (apply Rmult_le_pos; lra).
  replace ((1 - l (length s)) * (1 - e) - (1 - e)) with (- (l (length s) * (1 - e))) by ring.
  replace ((1 - l (length s)) * e + l (length s) - e) with (l (length s) * (1 - e)) by ring.
  rewrite Rabs_Ropp, Rabs_right by lra. assert (0 <= l (length s) * e) by (apply Rmult_le_pos; lra). lra.
Qed.

End Attained.

(** F3 is the exact supremum. For any caps and any eta > 0 there are two policies that keep the caps, and a reward of
    size 1, whose |Delta| is within eta of F3's bound. *)
Theorem F3_attained T l eta : (forall t, 0 <= l t <= 1) -> 0 < eta -> exists mu pi reward,
  setting 2 mu pi reward 1 /\ capped 2 T mu pi l /\
  2 * 1 * sum T (fun t => l t * (1 - prod T (fun j => if (j =? t)%nat then 1 else 1 - l j))) - eta
    <= Rabs (residual 2 T mu pi reward).
Proof.
  intros L Eta. set (g := fun e => gap 2 (mu e) (pi l e) reward T []).
  assert (C : continuity_pt g 0).
  { unfold g, gap. apply c_minus; [apply c_minus|].
    - apply value_continuous, pi_continuous.
    - apply (value_continuous mu mu_continuous).
    - apply ahead_continuous. }
  assert (G : g 0 = 2 * 1 * sum T (fun t => l t * (1 - prod T (fun j => if (j =? t)%nat then 1 else 1 - l j)))).
  { unfold g, gap. rewrite mu_limit, pi_limit, ahead_limit by reflexivity. simpl rare. simpl length. cbv iota.
    simpl of_count. rewrite one_sum. simpl Nat.add.
    rewrite (sum_ext T (fun t => l t * (1 - prod T (fun j => if (j =? t)%nat then 1 else 1 - l j)))
      (fun t => l t - l t * prod T (fun j => if (j =? t)%nat then 1 else 1 - l j))) by (intros; ring).
    rewrite sum_minus. change (sum T (fun t => l t)) with (sum T l). ring. }
  destruct (C eta Eta) as [a [A0 A]]. set (e := Rmin (a / 2) (/ 2)).
  assert (E0 : 0 < e) by (apply Rmin_glb_lt; lra). assert (E1 : e <= / 2) by apply Rmin_r.
  assert (E2 : e <= a / 2) by apply Rmin_l.
  exists (mu e), (pi l e), reward. split; [apply fine_setting; auto; lra|]. split; [apply fine_caps; auto; lra|].
  pose proof (fine_setting l e L ltac:(lra)) as S0.
  rewrite residual_gap, Rabs_Ropp by apply S0. fold (g e). rewrite <- G.
  assert (B : Rabs (g e - g 0) < eta).
  { apply A. split; [split; [exact I|lra]|]. simpl. unfold R_dist. rewrite Rminus_0_r, Rabs_right by lra. lra. }
  pose proof (Rle_abs (g e)). apply Rabs_def2 in B. lra.
Qed.
