"""The reference table: every learner on every core dataset."""
