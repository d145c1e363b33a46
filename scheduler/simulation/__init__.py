"""The real core under a virtual clock: what a policy keeps of its promises, in seconds instead of hours."""
