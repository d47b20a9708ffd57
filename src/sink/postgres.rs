//! PostgreSQL: the tables of statements 2 and 3.
