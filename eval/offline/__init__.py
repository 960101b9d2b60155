"""What heads draft and what is accepted, computed from text and kept rows: no engine."""
