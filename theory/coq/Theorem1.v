(** * Theorem 1: position weights and a budget on every prefix, over a distribution of prompts *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation Surrogate Residual.
Import ListNotations.
Open Scope R_scope.

(** Summation by parts: what falls, weighed against what never ends above zero. *)
Lemma abel n (r e : nat -> R) : (forall k, (S k < S n)%nat -> r (S k) <= r k) ->
  (forall k, (k <= n)%nat -> sum (S k) e <= 0) -> sum (S n) (fun k => r k * e k) <= r n * sum (S n) e.
Proof.
  induction n; intros Hr He; [simpl; lra|].
  assert (IH := IHn ltac:(intros; apply Hr; lia) ltac:(intros; apply He; lia)).
  change (sum (S n) (fun k => r k * e k) + r (S n) * e (S n) <= r (S n) * (sum (S n) e + e (S n))).
  pose proof (Hr n ltac:(lia)). pose proof (He n ltac:(lia)).
  assert (0 <= (r n - r (S n)) * - sum (S n) e) by (apply Rmult_le_pos; lra). lra.
Qed.

Lemma sum_const n c : sum n (fun _ => c) = INR n * c.
Proof. induction n; [simpl; ring|]. rewrite S_INR. cbn [sum]. rewrite IHn. ring. Qed.

Lemma triangle T : sum T (fun t => INR (T - S t)) = INR T * (INR T - 1) / 2.
Proof.
  induction T; [simpl; lra|]. rewrite sum_shift, (sum_ext T _ (fun t => INR (T - S t))) by (intros; f_equal; lia).
  rewrite IHT. replace (S T - 1)%nat with T by lia. rewrite S_INR. lra.
Qed.

(** The same for one list of drifts: what the premises of Theorem 1 say of sum_t (T - t) u_t. *)
Lemma budgeted T (w v : nat -> R) delta_b : (forall t, 0 < w t) -> (forall t, 0 <= v t) ->
  (forall t, (S t < T)%nat -> INR (T - S (S t)) / w (S t) <= INR (T - S t) / w t) ->
  (forall t, (S t < T)%nat -> sum (S t) (fun j => w j * v j) <= delta_b * sum (S t) w) ->
  sum T (fun t => v t * INR (T - S t)) <= delta_b * (INR T * (INR T - 1) / 2).
Proof.
  intros W P Mono B. destruct T as [|[|n]]; [simpl; lra|simpl; rewrite Rmult_0_r; lra|].
  set (r := fun t => INR (S (S n) - S t) / w t). set (e := fun t => w t * v t + (- delta_b) * w t).
  assert (E : forall k, sum (S k) e = sum (S k) (fun j => w j * v j) - delta_b * sum (S k) w)
    by (intros k; unfold e; rewrite sum_plus, sum_scal; lra).
  assert (A := abel n r e ltac:(intros; apply Mono; lia) ltac:(intros k Hk; rewrite E; specialize (B k ltac:(lia));
    lra)).
  assert (r0 : 0 <= r n) by (unfold r; apply Rmult_le_pos; [apply pos_INR|left; apply Rinv_0_lt_compat, W]).
  assert (e0 : 0 <= r n * - sum (S n) e) by (apply Rmult_le_pos; [exact r0|]; rewrite E; specialize (B n ltac:(lia));
    lra).
  rewrite <- triangle, <- sum_scal. change (sum (S (S n))) with (fun f => sum (S n) f + f (S n)). cbv beta.
  replace (S (S n) - S (S n))%nat with O by lia. change (INR 0) with 0. rewrite !Rmult_0_r, !Rplus_0_r.
  assert (Q : sum (S n) (fun k => r k * e k) = sum (S n) (fun t => v t * INR (S (S n) - S t) - delta_b * INR (S (S n)
    - S t))).
  { apply sum_ext. intros k _. unfold r, e. field. specialize (W k). lra. }
  rewrite sum_minus in Q. lra.
Qed.

(** If Eq. 5 holds on every path, it holds in expectation, which is all that Theorem 1 asks. *)
Lemma on_every_path V mu pi w c t : is_policy V mu ->
  (forall s, can_write V mu s -> length s = t -> spent (fun s => w (length s) * D V mu pi s) s <= c) ->
  sum t (fun j => w j * u V mu pi j) <= c.
Proof.
  set (cost := fun s => w (length s) * D V mu pi s). intros M H.
  assert (L : sum t (fun j => w j * u V mu pi j) = E V mu t [] (spent cost)).
  { clear H. induction t; [reflexivity|]. cbn [sum]. rewrite IHt, E_last.
    transitivity (E V mu t [] (fun y => spent cost y + w t * D V mu pi y)).
    - rewrite E_plus, E_scal. reflexivity.
    - apply E_ext. intros y N. rewrite Nat.add_0_r in N. destruct (M y) as [_ M1]. cbn [spent].
      rewrite sum_scal_r, M1.
      replace (cost y) with (w t * D V mu pi y) by (unfold cost; rewrite N; reflexivity). ring. }
  rewrite L, <- (E_const V mu t c M []). apply E_le; [auto|constructor|].
  intros y W N. apply H; auto. simpl in N. lia.
Qed.

(** Theorem 1. N prompts, each with its two policies and its reward. Let w_t >= w_min > 0 be fixed before the
    response is drawn, let w_t D_t <= delta on every path and, in expectation over prompts and responses,
    sum_{j<=t} w_j D_j <= delta_b sum_{j<=t} w_j for every t <= T-1 (Eq. 5). If (T - t) / w_t does not increase,
    then |Delta| <= 2 xi T (T-1) min(1, delta / w_min) delta_b. *)
Theorem theorem1 V T N (chance : nat -> R) (mu pi : nat -> policy) (reward : nat -> text -> R)
    xi w w_min delta delta_b :
  (forall x, (x < N)%nat -> 0 <= chance x /\ setting V (mu x) (pi x) (reward x) xi) -> sum N chance = 1 ->
  0 < w_min -> (forall t, w_min <= w t) -> 0 <= delta ->
  (forall x s, (x < N)%nat -> can_write V (mu x) s -> (length s < T)%nat ->
    w (length s) * D V (mu x) (pi x) s <= delta) ->
  (forall t, (S t < T)%nat ->
    sum (S t) (fun j => w j * sum N (fun x => chance x * u V (mu x) (pi x) j)) <= delta_b * sum (S t) w) ->
  (forall t, (S t < T)%nat -> INR (T - S (S t)) / w (S t) <= INR (T - S t) / w t) ->
  Rabs (sum N (fun x => chance x * residual V T (mu x) (pi x) (reward x)))
    <= 2 * xi * INR T * (INR T - 1) * Rmin 1 (delta / w_min) * delta_b.
Proof.
  intros H One W0 W Hd Cap Bud Mono. set (l := Rmin 1 (delta / w_min)).
  assert (L0 : 0 <= l) by (apply Rmin_glb; [lra|apply Rmult_le_pos; [lra|left; apply Rinv_0_lt_compat; lra]]).
  set (v := fun j => sum N (fun x => chance x * u V (mu x) (pi x) j)).
  assert (X : 0 <= xi).
  { destruct N; [simpl in One; lra|]. destruct (H O ltac:(lia)) as [_ S0]. apply (xi_pos _ _ _ _ _ S0). }
  apply Rle_trans with (4 * xi * l * sum T (fun t => v t * INR (T - S t))).
  - eapply Rle_trans; [apply sum_abs|].
    apply Rle_trans with (sum N (fun x => chance x * (4 * xi * l * sum T (fun t => u V (mu x) (pi x) t * INR (T - S
      t))))).
    + apply sum_le. intros x Hx. destruct (H x Hx) as [C Sx]. apply abs_times; auto.
      eapply Rle_trans; [apply (prop4 V T (mu x) (pi x) (reward x) xi (fun _ => l) Sx); auto|].
      * intros s Ws Ns. apply Rmin_glb; [apply D_unit; apply Sx|].
        specialize (Cap x s Hx Ws Ns). specialize (W (length s)). pose proof (D_pos V (mu x) (pi x) s).
        apply Rmult_le_reg_r with w_min; [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l, Rmult_1_r by lra.
        assert (0 <= D V (mu x) (pi x) s * (w (length s) - w_min)) by (apply Rmult_le_pos; lra). lra.
      * rewrite (sum_ext T _ (fun t => l * (u V (mu x) (pi x) t * INR (T - S t)))); [rewrite sum_scal; lra|].
        intros t _. rewrite sum_const. ring.
    + right. unfold v. rewrite <- sum_scal.
      rewrite (sum_ext T _ (fun t => sum N (fun x => chance x * (4 * xi * l * (u V (mu x) (pi x) t * INR (T - S t)))))).
      * rewrite <- sum_swap. apply sum_ext. intros x _. rewrite <- !sum_scal. reflexivity.
      * intros t _. rewrite <- sum_scal_r, <- sum_scal. apply sum_ext. intros. ring.
  - assert (0 <= 4 * xi * l) by (repeat apply Rmult_le_pos; lra).
    assert (B : sum T (fun t => v t * INR (T - S t)) <= delta_b * (INR T * (INR T - 1) / 2)).
    { apply (budgeted T w); auto.
      - intros t. specialize (W t). lra.
      - intros t. apply sum_pos. intros x Hx. destruct (H x Hx) as [C Sx]. apply Rmult_le_pos; auto.
        apply (u_pos _ _ _ _ _ _ Sx). }
    apply Rmult_le_compat_l with (r := 4 * xi * l) in B; lra.
Qed.
