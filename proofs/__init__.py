"""Proofs: programs that test and measure rdtops. No user runs them on a host, and nothing in rdtops imports them."""
