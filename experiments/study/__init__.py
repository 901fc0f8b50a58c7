"""The study: a grid of runs, resumable; its results as one tidy table; statistics, figures and a page drawn from it."""
