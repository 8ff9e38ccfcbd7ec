"""Actors on other machines: a gRPC service between them and the learner."""

import os

# Read when gRPC is imported. No process talks on after a fork, and what gRPC
# does at one has ended children that were to become another program.
os.environ.setdefault('GRPC_ENABLE_FORK_SUPPORT', '0')
