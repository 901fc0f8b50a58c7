(** * Every theorem, and the axioms it rests on *)
From CPPO Require Import Surrogate Residual Attained Theorem1 Budget ChiSquare TheoremB Examples.

Print Assumptions lemma2.
Print Assumptions F1.
Print Assumptions T2.
Print Assumptions T2_total.
Print Assumptions prop4.
Print Assumptions theorem1.
Print Assumptions F3.
Print Assumptions F3_attained.
Print Assumptions F4.
Print Assumptions F7_spread.
Print Assumptions F7.
Print Assumptions theoremB.
Print Assumptions theoremB_distance.
Print Assumptions theoremB_failure.
Print Assumptions support_is_needed.
