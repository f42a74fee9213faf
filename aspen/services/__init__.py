"""What a node does with its log and its store, over Protocols."""
