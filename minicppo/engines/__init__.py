"""Adapters to the engines that run what outgrows one device: TRL and verl. No distributed runtime of our own."""
