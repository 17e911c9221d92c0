"""Whether two artifacts agree. Empty until verification comes."""
