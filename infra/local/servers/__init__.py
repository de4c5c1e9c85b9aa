"""Cassandra, Hazelcast and Kafka on this machine, without containers; see the README of `infra/local`."""
