"""L-MTP itself: which head fills which place, from which row, with which token. Pure torch."""
