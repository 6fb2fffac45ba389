"""The loop: one step after another, and when to log, save and evaluate."""
