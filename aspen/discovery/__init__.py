"""How nodes find each other: signed gossip, and every other source of addresses."""
