"""Exercises of the walkthroughs 5 to 8."""
