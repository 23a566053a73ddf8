//! The router: assembly, supervision, reload and drain
