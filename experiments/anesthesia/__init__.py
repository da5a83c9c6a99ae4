"""General anesthesia: how well fitted simulators know their patients, and what timing and individual policies gain."""
