//! What a tap is asked for: text from a request, compiled against the mesh document in force, so that a name that can never come is refused
//! instead of waited for.

use longhaul_event::{CORRELATION_BYTES_MAX, Event, EventId, correlation};
use longhaul_topology::Route;
use serde::{Deserialize, Serialize};

use super::line::{About, Outcome};
use crate::live::World;

/// Names that a refusal lists.
const NAMES_SHOWN_MAX: usize = 10;

/// What somebody wants to see: every part that is given must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TapAsked {
    /// Name of the route.
    pub route: Option<String>,
    /// `region` or `region/broker` that it comes from.
    pub from: Option<String>,
    /// `region` or `region/broker` that it goes to.
    pub to: Option<String>,
    /// Filter over topics: of the source at the owning end of a flow, of the destination at the applying end.
    pub topic: Option<String>,
    /// The correlation id, as lines and logs show it.
    pub correlation: Option<String>,
    /// The key, byte by byte.
    pub key: Option<String>,
    /// The event's identity, 32 hex digits.
    pub event: Option<String>,
    /// [Outcomes](Outcome), with commas between them; without it all but `skipped`.
    pub outcome: Option<String>,
}

/// Why there is no tap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// What was asked for is wrong, or can never come; a sentence.
    #[error("{0}")]
    Wrong(String),
    /// So many tap already.
    #[error("{0} taps are open already, which is the most that a router has; close one")]
    TooMany(usize),
}

/// What was asked for, as values.
#[derive(Debug, Default)]
pub(super) struct Filter {
    route: Option<String>,
    from: Option<String>,
    to: Option<String>,
    topic: Option<longhaul_topic::Filter>,
    correlation: Option<String>,
    key: Option<String>,
    event: Option<EventId>,
    /// None are all but [`Outcome::Skipped`].
    outcomes: Vec<Outcome>,
}

impl TapAsked {
    pub(super) fn compile(&self, world: &World) -> Result<Filter, TapError> {
        let routes: Vec<&Route> = world.table.routes().map(|route| route.route()).collect();
        self.check_route(&routes)?;
        let asked = self.clone();
        let topic = asked.topic.map(|text| parse_topic(&text)).transpose()?;
        let event = asked.event.map(|text| parse_event(&text)).transpose()?;
        let outcomes = asked.outcome.map(|text| parse_outcomes(&text)).transpose()?.unwrap_or_default();
        if asked.correlation.as_ref().is_some_and(|id| id.is_empty() || id.len() > CORRELATION_BYTES_MAX) {
            let text = format!(
                "correlation: an id is 1 to {CORRELATION_BYTES_MAX} bytes long; of a longer one, give the first"
            );
            return Err(TapError::Wrong(text));
        }
        let (route, from, to) = (asked.route, asked.from, asked.to);
        Ok(Filter { route, from, to, topic, correlation: asked.correlation, key: asked.key, event, outcomes })
    }

    /// Whether some route of the mesh is of that name and goes from there to there.
    fn check_route(&self, routes: &[&Route]) -> Result<(), TapError> {
        let named = |route: &&&Route| self.route.as_ref().is_none_or(|name| *name == route.name);
        let from = |route: &&&Route| is_place(self.from.as_deref(), &route.from.region, &route.from.broker);
        let to = |route: &&&Route| route.to.iter().any(|to| is_place(self.to.as_deref(), &to.region, &to.broker));
        if !routes.iter().any(|route| named(&route)) {
            let names: Vec<_> = routes.iter().take(NAMES_SHOWN_MAX).map(|route| route.name.as_str()).collect();
            let (asked, more) = (self.route.as_deref().unwrap_or_default(), routes.len() - names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let text = match names.is_empty() {
                true => "the mesh document in force has no route".to_owned(),
                false => format!("route: there is no route called {asked:?}; there are {}{more}", names.join(", ")),
            };
            return Err(TapError::Wrong(text));
        }
        let (asked_from, asked_to) =
            (self.from.as_deref().unwrap_or("anywhere"), self.to.as_deref().unwrap_or("anywhere"));
        if !routes.iter().any(|route| named(&route) && from(&route) && to(&route)) {
            let goes = match &self.route {
                Some(name) => format!("the route {name} does not go"),
                None => "no route goes".to_owned(),
            };
            let text = format!("from, to: {goes} from {asked_from} to {asked_to}; a place is REGION or REGION/BROKER");
            return Err(TapError::Wrong(text));
        }
        Ok(())
    }
}

impl Filter {
    /// Whether it may take events of that flow.
    pub(super) fn takes_flow(&self, about: &About) -> bool {
        let (from, to) = (&about.key.from, &about.key.to);
        self.route.as_ref().is_none_or(|route| *route == about.key.route)
            && is_place(self.from.as_deref(), &from.0, &from.1)
            && is_place(self.to.as_deref(), &to.0, &to.1)
    }

    /// Whether it takes an event, whatever becomes of it.
    pub(super) fn takes(&self, event: &Event) -> bool {
        self.event.is_none_or(|id| id == event.id)
            && self.key.as_ref().is_none_or(|key| event.key.as_deref() == Some(key.as_bytes()))
            && self.topic.as_ref().is_none_or(|topic| topic.matches(&event.topic))
            && self.correlation.as_deref().is_none_or(|id| correlation(&event.headers).as_deref() == Some(id))
    }

    /// Whether that outcome is one to be shown.
    pub(super) fn wants(&self, outcome: Outcome) -> bool {
        match self.outcomes.as_slice() {
            [] => outcome != Outcome::Skipped,
            wanted => wanted.contains(&outcome),
        }
    }

    /// Whether an outcome is wanted that is known only when the destination has answered.
    pub(super) fn waits_for_writes(&self) -> bool {
        [Outcome::Delivered, Outcome::Failed, Outcome::Refused].into_iter().any(|outcome| self.wants(outcome))
    }
}

/// Whether a place is the one that was asked for, as `region` or `region/broker`.
fn is_place(asked: Option<&str>, region: &str, broker: &str) -> bool {
    asked.is_none_or(|asked| match asked.split_once('/') {
        Some(asked) => asked == (region, broker),
        None => asked == region,
    })
}

fn parse_topic(text: &str) -> Result<longhaul_topic::Filter, TapError> {
    longhaul_topic::Filter::parse(text).map_err(|error| TapError::Wrong(format!("topic: {error}")))
}

fn parse_event(text: &str) -> Result<EventId, TapError> {
    EventId::parse(text.as_bytes())
        .ok_or_else(|| TapError::Wrong(format!("event: an identity is 32 hex digits, not {text:?}")))
}

fn parse_outcomes(text: &str) -> Result<Vec<Outcome>, TapError> {
    let one = |name: &str| Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == name.trim());
    text.split(',')
        .map(|name| {
            let all = Outcome::ALL.map(Outcome::as_str).join(", ");
            one(name).ok_or_else(|| TapError::Wrong(format!("outcome: there is no {name:?}; there are {all}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longhaul_event::{Headers, Identity};
    use longhaul_topic::Topic;
    use longhaul_topology::FlowKey;

    use super::*;
    use crate::flow_status::End;

    fn event(headers: &[(&str, &str)]) -> Event {
        let mut builder = Headers::builder();
        headers.iter().for_each(|(name, value)| builder.push(name, value.as_bytes()).unwrap());
        Event {
            offset: 1,
            topic: Topic::parse("orders.new").unwrap(),
            key: Some(Bytes::from_static(b"k")),
            headers: builder.finish(),
            payload: None,
            time_ms: 1,
            id: EventId(0xab),
            identity: Identity::Unique,
            provenance: Bytes::new(),
        }
    }

    #[test]
    fn a_correlation_id_is_found_in_every_spelling_and_no_other() {
        let filter = Filter { correlation: Some("order-1".into()), ..Filter::default() };
        let names = ["ce_correlationid", "cloudEvents_correlationid", "cloudEvents:correlationid", "ce-correlationid"];
        for name in
            names.into_iter().chain(["correlation_id", "Correlation-Id", "x-correlation-id", "amqp.correlation_id"])
        {
            assert!(filter.takes(&event(&[(name, "order-1")])), "{name}");
            for other in ["order-10", "order-", "Order-1", " order-1"] {
                assert!(!filter.takes(&event(&[(name, other)])), "{name}: {other}");
            }
        }
        assert!(!filter.takes(&event(&[("x-other", "order-1")])) && !filter.takes(&event(&[])));
    }

    #[test]
    fn every_part_must_hold() {
        let all = |topic: &str, key: &str, id| Filter {
            topic: Some(longhaul_topic::Filter::parse(topic).unwrap()),
            key: Some(key.into()),
            event: Some(EventId(id)),
            ..Filter::default()
        };
        let event = event(&[]);
        assert!(all("orders.*", "k", 0xab).takes(&event));
        for (topic, key, id) in [("orders", "k", 0xab), ("orders.*", "K", 0xab), ("orders.*", "k", 0xac)] {
            assert!(!all(topic, key, id).takes(&event), "{topic} {key} {id}");
        }
        assert!(!Filter { key: Some(String::new()), ..Filter::default() }.takes(&Event { key: None, ..event }));
    }

    #[test]
    fn a_place_is_a_region_or_a_broker_of_it() {
        let from = ("eu".to_owned(), "orders".to_owned(), "s".to_owned());
        let key = FlowKey { mesh: "test".into(), route: "r".into(), from, to: ("us".into(), "billing".into()) };
        let about = About::new(&key, End::Out);
        for (from, to, takes) in [
            (Some("eu"), None, true),
            (Some("eu/orders"), Some("us/billing"), true),
            (Some("us"), None, false),
            (Some("eu/billing"), None, false),
            (Some("eu/"), None, false),
            (None, Some("us/orders"), false),
        ] {
            let text = |place: Option<&str>| place.map(str::to_owned);
            let filter = Filter { from: text(from), to: text(to), ..Filter::default() };
            assert_eq!(filter.takes_flow(&about), takes, "{from:?} {to:?}");
        }
        let other = |route: &str| Filter { route: Some(route.into()), ..Filter::default() };
        assert!(other("r").takes_flow(&about) && !other("rr").takes_flow(&about));
    }

    #[test]
    fn skipped_events_are_shown_on_request_only() {
        let wants = |text: &str, outcome| {
            Filter { outcomes: parse_outcomes(text).unwrap(), ..Filter::default() }.wants(outcome)
        };
        let all = Filter::default();
        assert!(Outcome::ALL.into_iter().all(|outcome| all.wants(outcome) == (outcome != Outcome::Skipped)));
        assert!(wants("skipped, sent", Outcome::Skipped) && wants("skipped, sent", Outcome::Sent));
        assert!(!wants("skipped", Outcome::Sent));
        let wrong = parse_outcomes("sent,gone").expect_err("no outcome").to_string();
        assert!(wrong.starts_with("outcome: there is no \"gone\"; there are sent, skipped,"), "{wrong}");
    }
}
