"""Estimators of the bound, from the traces of a pair."""
