"""The doctor: facts (what was observed) become findings (status, evidence, remedy)."""
