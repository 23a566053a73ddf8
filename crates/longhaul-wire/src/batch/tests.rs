//! What batches promise: every event comes back as it was, and nothing that a peer can send does harm.
