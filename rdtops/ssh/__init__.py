"""SSH: hosts, connections and remote commands; nothing about training."""
