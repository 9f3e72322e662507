"""Doing it: training with parents, fitting, embedding, overfitting, recipes, new experiments."""
