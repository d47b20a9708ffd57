//! Kafka: the topics compensation-events, late-events and dead-letter.
