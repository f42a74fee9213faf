"""pkarr: signed DNS packets under Ed25519 keys, and the relay that takes them over HTTP."""
