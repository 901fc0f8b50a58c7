"""What makes this repository's own results: demos, the study, the paper's tables, benchmarks. Not in the wheel."""
