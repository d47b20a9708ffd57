//! Against real servers: PostgreSQL, Redis and Kafka.

mod verify;
