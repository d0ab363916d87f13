"""Sequences → a recommender of the field, trained from scratch and tuned: SASRec and GRU4Rec."""
