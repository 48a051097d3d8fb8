"""Lab: a jump host and two GPU hosts on this machine, over real SSH."""
