"""Consensus: a sans-IO Raft core with etcd-raft's semantics, and the shells that run it."""
