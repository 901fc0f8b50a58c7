"""Machine-checked proofs (Coq), and the page that lists their statements."""
