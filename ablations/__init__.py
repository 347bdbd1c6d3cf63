"""Many pipelines: studies declared as data, the plan of what is still to train, and the driver that works it off."""
