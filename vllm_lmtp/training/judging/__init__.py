"""How good heads are on answers that they did not learn from."""
