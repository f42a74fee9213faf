"""The QUIC endpoint: one UDP port, mutually authenticated peers."""
