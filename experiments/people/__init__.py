"""New patients: who is one, and what sharing a policy keeps of the gain of one's own."""
