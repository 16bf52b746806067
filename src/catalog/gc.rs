//! Retention and garbage collection.
