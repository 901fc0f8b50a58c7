(** * The premise pi << mu is needed, and the definitions can be computed with *)
From Coq Require Import Reals Lra Lia List Arith.
From CPPO Require Import Expectation Surrogate.
Import ListNotations.
Open Scope R_scope.

Definition one_token (chance : R) : policy := fun _ a => match a with O => chance | _ => 1 - chance end.
Definition second (y : text) : R := match y with [1%nat] => 1 | _ => 0 end.

Lemma one_token_policy chance : 0 <= chance <= 1 -> is_policy 2 (one_token chance).
Proof. intros H s. simpl. split; [intros [|a] _; simpl|]; lra. Qed.

(** Lemma 2 without its premise. One token, mu = (1, 0), pi = (1/2, 1/2), R = (0, 1): J rises by 1/2, and neither L'
    nor Delta sees it. *)
Theorem support_is_needed : is_policy 2 (one_token 1) /\ is_policy 2 (one_token (/ 2)) /\
  J 2 1 second (one_token (/ 2)) - J 2 1 second (one_token 1) = / 2 /\
  surrogate 2 1 (one_token 1) (one_token (/ 2)) second = 0 /\ residual 2 1 (one_token 1) (one_token (/ 2)) second = 0.
Proof.
  repeat split; try (apply one_token_policy; lra); unfold J, surrogate, residual; simpl; lra.
Qed.
