//! QUIC links with mutual TLS: dialling, accepting, parcels and the fair scheduler
