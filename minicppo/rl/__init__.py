"""The small trainer: tasks, policies, sampling, scoring, updates, evaluation, run directories, checkpoints."""
