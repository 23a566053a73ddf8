//! Values by name: attributes of a CloudEvent in binary mode, then in structured mode, then headers.

use std::borrow::Cow;
use std::cell::OnceCell;

use longhaul_event::cloudevents::{Structured, attribute, is_structured};
use longhaul_event::{Event, HeaderTag, header_text};

/// An event that is being asked; reads a JSON payload at most once, and only when a name stands nowhere else.
pub(crate) struct Lookup<'a> {
    event: &'a Event,
    structured: OnceCell<Option<Structured<'a>>>,
}

impl<'a> Lookup<'a> {
    pub(crate) fn new(event: &'a Event) -> Self {
        Self { event, structured: OnceCell::new() }
    }

    /// The value of that name; the first one when there are several. A null header is no value.
    pub(super) fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        attribute(&self.event.headers, name)
            .or_else(|| self.structured()?.attribute(name).map(Cow::Borrowed))
            .or_else(|| self.header(name))
    }

    fn structured(&self) -> Option<&Structured<'a>> {
        let read = || {
            let payload = self.event.payload.as_ref().filter(|_| is_structured(&self.event.headers))?;
            Structured::parse(payload)
        };
        self.structured.get_or_init(read).as_ref()
    }

    fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        let header = self.event.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        (header.tag != HeaderTag::NULL).then(|| header_text(&header))
    }
}
