(** * What the statements speak of: texts, policies, expectations, the surrogate and its residual

    One prompt is fixed throughout; an average over prompts is taken where it matters (Theorem 1). A response has
    exactly [T] tokens: one that ends early goes on with an end token on which both policies agree. *)
From Coq Require Import Reals Lra Lia List Arith.
Import ListNotations.
Open Scope R_scope.

(** ** Sums and products: [sum n f] is f 0 + ... + f (n-1) *)

Fixpoint sum (n : nat) (f : nat -> R) : R := match n with O => 0 | S n => sum n f + f n end.
Fixpoint prod (n : nat) (f : nat -> R) : R := match n with O => 1 | S n => prod n f * f n end.

Lemma sum_ext n f g : (forall a, (a < n)%nat -> f a = g a) -> sum n f = sum n g.
Proof.
  intros H. induction n; simpl; [reflexivity|].
  rewrite IHn, H by (intros; auto; lia). reflexivity.
Qed.

Lemma sum_le n f g : (forall a, (a < n)%nat -> f a <= g a) -> sum n f <= sum n g.
Proof.
  intros H. induction n; simpl; [lra|].
  assert (sum n f <= sum n g) by (apply IHn; intros; apply H; lia). specialize (H n ltac:(lia)). lra.
Qed.

Lemma sum_plus n f g : sum n (fun a => f a + g a) = sum n f + sum n g.
Proof. induction n; simpl; lra. Qed.

Lemma sum_minus n f g : sum n (fun a => f a - g a) = sum n f - sum n g.
Proof. induction n; simpl; lra. Qed.

Lemma sum_scal n c f : sum n (fun a => c * f a) = c * sum n f.
Proof. induction n; simpl; [lra|]. rewrite IHn. lra. Qed.

Lemma sum_scal_r n c f : sum n (fun a => f a * c) = sum n f * c.
Proof. induction n; simpl; [lra|]. rewrite IHn. lra. Qed.

Lemma sum_abs n f : Rabs (sum n f) <= sum n (fun a => Rabs (f a)).
Proof.
  induction n; simpl; [rewrite Rabs_R0; lra|].
  eapply Rle_trans; [apply Rabs_triang|]. lra.
Qed.

Lemma sum_pos n f : (forall a, (a < n)%nat -> 0 <= f a) -> 0 <= sum n f.
Proof.
  intros H. induction n; simpl; [lra|].
  assert (0 <= sum n f) by (apply IHn; intros; apply H; lia). specialize (H n ltac:(lia)). lra.
Qed.

Lemma sum_shift n f : sum (S n) f = f O + sum n (fun k => f (S k)).
Proof. induction n; [simpl; lra|]. change (sum (S n) f + f (S n) = f O + (sum n (fun k => f (S k)) + f (S n))). lra.
Qed.

Lemma sum_swap n k f : sum n (fun a => sum k (f a)) = sum k (fun b => sum n (fun a => f a b)).
Proof.
  induction n; simpl.
  - induction k; simpl; lra.
  - rewrite IHn, <- sum_plus. reflexivity.
Qed.

Lemma sum_has_positive n f : 0 < sum n f -> exists a, (a < n)%nat /\ 0 < f a.
Proof.
  induction n; simpl; intros H; [lra|]. destruct (Rlt_dec 0 (f n)) as [P|P]; [exists n; auto|].
  destruct IHn as [a [A B]]; [lra|]. exists a. auto.
Qed.

Lemma prod_shift n f : prod (S n) f = f O * prod n (fun k => f (S k)).
Proof. induction n; [simpl; lra|]. change (prod (S n) f * f (S n) = f O * (prod n (fun k => f (S k)) * f (S n))).
rewrite IHn. ring. Qed.

Lemma prod_ext n f g : (forall a, (a < n)%nat -> f a = g a) -> prod n f = prod n g.
Proof.
  intros H. induction n; simpl; [reflexivity|].
  rewrite IHn, H by (intros; auto; lia). reflexivity.
Qed.

Lemma prod_split a b f : prod (a + b) f = prod a f * prod b (fun i => f (a + i)%nat).
Proof.
  induction b; simpl; [rewrite Nat.add_0_r; ring|]. rewrite Nat.add_succ_r. simpl. rewrite IHb. ring.
Qed.

Lemma prod_unit n f : (forall a, (a < n)%nat -> 0 <= f a <= 1) -> 0 <= prod n f <= 1.
Proof.
  intros H. induction n; simpl; [lra|].
  assert (0 <= prod n f <= 1) by (apply IHn; intros; apply H; lia). specialize (H n ltac:(lia)). split.
  - apply Rmult_le_pos; lra.
  - rewrite <- (Rmult_1_r 1). apply Rmult_le_compat; lra.
Qed.

(** A bounded factor: the form in which products of bounds are handed to [lra]. *)
Lemma abs_times c x b : 0 <= c -> Rabs x <= b -> Rabs (c * x) <= c * b.
Proof. intros C X. rewrite Rabs_mult, (Rabs_right c) by lra. apply Rmult_le_compat_l; auto. Qed.

(** ** Texts and policies *)

(** A text is the list of its tokens, the LAST token first; token [a] written after [s] makes [a :: s]. *)
Definition text := list nat.

(** [q s a] is the probability that policy [q] writes token [a] after [s]. *)
Definition policy := text -> nat -> R.

(** What a text has spent along its way: the costs of the texts it grew from, its own not included. *)
Fixpoint spent (cost : text -> R) (y : text) : R := match y with [] => 0 | _ :: s => spent cost s + cost s end.

Section Policies.
Variable V : nat. (* size of the vocabulary: tokens are 0 ... V-1 *)

Definition is_policy (q : policy) : Prop :=
  forall s, (forall a, (a < V)%nat -> 0 <= q s a) /\ sum V (q s) = 1.

(** The texts that [q] can write, however rarely. *)
Inductive can_write (q : policy) : text -> Prop :=
  | nothing_yet : can_write q []
  | one_more s a : can_write q s -> (a < V)%nat -> 0 < q s a -> can_write q (a :: s).

(** pi << mu: whatever [pi] may emit, [mu] may sample. *)
Definition absolutely_continuous (pi mu : policy) : Prop :=
  forall s a, can_write mu s -> (a < V)%nat -> mu s a = 0 -> pi s a = 0.

(** The mean of [f] over the texts that [q] makes of [s] by writing [n] tokens more. *)
Fixpoint E (q : policy) (n : nat) (s : text) (f : text -> R) : R :=
  match n with O => f s | S n => sum V (fun a => q s a * E q n (a :: s) f) end.

(** Total variation between the two next-token distributions after [s]. *)
Definition D (mu pi : policy) (s : text) : R := / 2 * sum V (fun a => Rabs (pi s a - mu s a)).

Lemma E_ext q n : forall s f g, (forall y, length y = (n + length s)%nat -> f y = g y) -> E q n s f = E q n s g.
Proof.
  induction n; intros s f g H; simpl; [apply H; auto|]. apply sum_ext. intros a _. f_equal.
  apply IHn. intros y L. apply H. simpl in L. lia.
Qed.

Lemma E_plus q n : forall s f g, E q n s (fun y => f y + g y) = E q n s f + E q n s g.
Proof.
  induction n; intros s f g; simpl; [reflexivity|]. rewrite <- sum_plus.
  apply sum_ext. intros a _. rewrite IHn. ring.
Qed.

Lemma E_scal q n c : forall s f, E q n s (fun y => c * f y) = c * E q n s f.
Proof.
  induction n; intros s f; simpl; [reflexivity|]. rewrite <- sum_scal.
  apply sum_ext. intros a _. rewrite IHn. ring.
Qed.

Lemma E_minus q n s f g : E q n s (fun y => f y - g y) = E q n s f - E q n s g.
Proof.
  rewrite (E_ext q n s _ (fun y => f y + (-1) * g y)) by (intros; ring).
  rewrite E_plus, E_scal. ring.
Qed.

(** Written from the end: the last of [n + 1] tokens is averaged first. *)
Lemma E_last q n : forall s f, E q (S n) s f = E q n s (fun y => sum V (fun a => q y a * f (a :: y))).
Proof. induction n; intros s f; [reflexivity|]. cbn [E]. apply sum_ext. intros a _. f_equal. apply IHn. Qed.

Lemma E_const q n c : is_policy q -> forall s, E q n s (fun _ => c) = c.
Proof.
  intros Q. induction n; intros s; simpl; [reflexivity|].
  rewrite (sum_ext V _ (fun a => q s a * c)) by (intros; rewrite IHn; reflexivity).
  rewrite sum_scal_r. destruct (Q s) as [_ H]. rewrite H. ring.
Qed.

(** [p] and [q] need not sum to one here: [p] may be a part of [q]. Only what [q] can write counts. *)
Lemma E_le_part p q n : forall s f g, (forall s a, (a < V)%nat -> 0 <= p s a <= q s a) -> can_write q s ->
  (forall y, can_write q y -> length y = (n + length s)%nat -> f y <= g y /\ 0 <= g y) ->
  E p n s f <= E q n s g /\ 0 <= E q n s g.
Proof.
  induction n; intros s f g P W H; simpl; [apply H; auto|].
  assert (K : forall a, (a < V)%nat -> p s a * E p n (a :: s) f <= q s a * E q n (a :: s) g
    /\ 0 <= q s a * E q n (a :: s) g).
  { intros a Ha. destruct (P s a Ha) as [P0 P1]. destruct (Rle_lt_or_eq_dec 0 (q s a)) as [Q|Q]; [lra| |].
    - destruct (IHn (a :: s) f g P) as [I1 I2].
      + constructor; auto.
      + intros y Y L. apply H; auto. simpl in L. lia.
      + split; [|apply Rmult_le_pos; lra].
        apply Rle_trans with (p s a * E q n (a :: s) g); [apply Rmult_le_compat_l|apply Rmult_le_compat_r]; lra.
    - rewrite <- Q. replace (p s a) with 0 by lra. lra. }
  split; [apply sum_le|apply sum_pos]; intros a Ha; apply K; auto.
Qed.

Lemma E_le q n : forall s f g, is_policy q -> can_write q s ->
  (forall y, can_write q y -> length y = (n + length s)%nat -> f y <= g y) -> E q n s f <= E q n s g.
Proof.
  induction n; intros s f g Q W H; simpl; [apply H; auto|]. apply sum_le. intros a Ha.
  destruct (Q s) as [Q0 _]. specialize (Q0 a Ha).
  destruct (Rle_lt_or_eq_dec 0 (q s a) Q0) as [P|P]; [|rewrite <- P; lra].
  apply Rmult_le_compat_l; [lra|]. apply IHn; auto; [constructor; auto|].
  intros y Y L. apply H; auto. simpl in L. lia.
Qed.

Lemma E_nonneg q n f : (forall s a, (a < V)%nat -> 0 <= q s a) -> (forall y, 0 <= f y) -> forall s, 0 <= E q n s f.
Proof. intros Q F. induction n; intros s; simpl; [apply F|]. apply sum_pos. intros. apply Rmult_le_pos; auto. Qed.

Lemma E_abs q n f g : is_policy q -> (forall y, Rabs (f y) <= g y) -> forall s, Rabs (E q n s f) <= E q n s g.
Proof.
  intros Q H. induction n; intros s; simpl; [apply H|]. destruct (Q s) as [Q0 _].
  eapply Rle_trans; [apply sum_abs|]. apply sum_le. intros a Ha. apply abs_times; auto.
Qed.

Lemma E_bounded q n c s f : is_policy q -> (forall y, Rabs (f y) <= c) -> Rabs (E q n s f) <= c.
Proof. intros Q H. rewrite <- (E_const q n c Q s). apply (E_abs q n f (fun _ => c)); auto. Qed.

(** ** The two policies, what they share, and their total variation *)

Definition overlap (mu pi : policy) : policy := fun s a => Rmin (mu s a) (pi s a).

Lemma D_pos mu pi s : 0 <= D mu pi s.
Proof. unfold D. apply Rmult_le_pos; [lra|]. apply sum_pos. intros. apply Rabs_pos. Qed.

Lemma overlap_unit mu pi : is_policy mu -> is_policy pi ->
  forall s a, (a < V)%nat -> 0 <= overlap mu pi s a <= mu s a.
Proof.
  intros M P s a Ha. destruct (M s) as [M0 _], (P s) as [P0 _]. specialize (M0 a Ha). specialize (P0 a Ha).
  unfold overlap, Rmin. destruct (Rle_dec (mu s a) (pi s a)); lra.
Qed.

Lemma overlap_sum mu pi s : is_policy mu -> is_policy pi -> sum V (overlap mu pi s) = 1 - D mu pi s.
Proof.
  intros M P. destruct (M s) as [_ M1], (P s) as [_ P1]. unfold D.
  rewrite (sum_ext V (overlap mu pi s) (fun a => / 2 * mu s a + (/ 2 * pi s a - / 2 * Rabs (pi s a - mu s a)))).
  - rewrite sum_plus, sum_minus, !sum_scal, M1, P1. lra.
  - intros a _. unfold overlap, Rmin, Rabs.
    destruct (Rle_dec (mu s a) (pi s a)); destruct (Rcase_abs (pi s a - mu s a)); lra.
Qed.

Lemma D_unit mu pi s : is_policy mu -> is_policy pi -> D mu pi s <= 1.
Proof.
  intros M P. assert (0 <= sum V (overlap mu pi s)) by (apply sum_pos; intros; apply overlap_unit; auto).
  rewrite overlap_sum in H; auto. lra.
Qed.

End Policies.
