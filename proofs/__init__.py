"""Proofs: drills, benches and the labs they need. Nothing of rdtops imports them, nothing of them travels to a host."""
