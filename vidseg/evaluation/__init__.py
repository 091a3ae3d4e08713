"""Evaluation: how near a model's alpha comes to the truth, by set and beside other models."""
