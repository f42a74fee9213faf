"""What is served under a certificate: where it comes from, TLS on accepting connections, DoQ, ACME."""
