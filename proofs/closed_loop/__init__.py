"""Does a policy that was trained here solve tasks in LIBERO's simulator? Demonstrations, small trainings, trials."""
