//! Words of the design that are not built yet. They are refused with a sentence of their own, so that nobody hunts for a typing
//! error; and refused they are, because a key that is read and ignored is a promise broken in silence.

/// The sentence for a key of a struct.
pub(crate) fn key(what: &str, key: &str) -> Option<&'static str> {
    Some(match (what, key) {
        ("router document", "subscriptions") => {
            "`subscriptions` are not available yet: declare a route in the mesh document instead"
        }
        ("router document", "exports") => {
            "`exports` are not available yet: what leaves a region is what the routes of the mesh document name"
        }
        ("predicate", "sql") => "`sql` is not available yet: use exact, prefix, suffix, all, any and not",
        ("RabbitMQ access", "management_uri") => "`management_uri` is not available yet, and nothing needs it so far",
        _ => return None,
    })
}
