//! Metric names, the registry and the logs
