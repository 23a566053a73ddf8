//! The admin listener: metrics, health and the JSON API
