"""Actors on other machines: a gRPC service between them and the learner."""
