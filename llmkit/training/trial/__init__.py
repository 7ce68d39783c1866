"""Before a run is trusted: what it would take, and whether this machine trains and resumes as it should."""
