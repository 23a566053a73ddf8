//! The filters of an index, one behind the other in one piece of memory.
//!
//! ```text
//! record = id u32 | next u32 | text_len u16 | text      (next: a record with the same filter and another id, or NONE)
//! ```
//! Only the head of such a chain has the text.

use crate::pattern;

const FIXED_BYTES: usize = 4 + 4 + 2;
/// No record.
pub(super) const NONE: u32 = u32::MAX;

/// The records; one is named by its offset.
#[derive(Debug, Clone, Default)]
pub(super) struct Store(Vec<u8>);

impl Store {
    pub(super) fn with_capacity(filters: usize, text_bytes: usize) -> Self {
        Self(Vec::with_capacity(filters * FIXED_BYTES + text_bytes))
    }

    /// Appends the first record of a filter; `None` when there is no offset left for it.
    pub(super) fn push(&mut self, text: &[u8], id: u32) -> Option<u32> {
        let record = u32::try_from(self.0.len()).ok().filter(|record| *record != NONE)?;
        self.0.extend_from_slice(&id.to_le_bytes());
        self.0.extend_from_slice(&NONE.to_le_bytes());
        let len = u16::try_from(text.len()).expect("a filter has at most 1,024 bytes");
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(text);
        Some(record)
    }

    /// Appends another id of the same filter, likewise.
    pub(super) fn push_same(&mut self, head: u32, id: u32) -> Option<()> {
        let record = self.push(&[], id)?;
        let next = self.u32_at(head, 4);
        self.set_next(record, next);
        self.set_next(head, record);
        Some(())
    }

    pub(super) fn text(&self, record: u32) -> &[u8] {
        let start = record as usize + FIXED_BYTES;
        &self.0[start..start + self.text_len(record)]
    }

    /// Length of a record's text. Asking for it is also the cheapest way to bring the record into the cache.
    pub(super) fn text_len(&self, record: u32) -> usize {
        let at = record as usize + 8;
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    /// Whether the filter at the head of a chain takes the topic.
    pub(super) fn matches(&self, head: u32, topic: &[u8]) -> bool {
        pattern::matches(self.text(head), topic)
    }

    pub(super) fn for_each_id(&self, head: u32, found: &mut impl FnMut(u32)) {
        let mut record = head;
        while record != NONE {
            found(self.u32_at(record, 0));
            record = self.u32_at(record, 4);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.capacity()
    }

    fn u32_at(&self, record: u32, offset: usize) -> u32 {
        let at = record as usize + offset;
        let bytes = self.0[at..at + 4].try_into().expect("four bytes were taken");
        u32::from_le_bytes(bytes)
    }

    fn set_next(&mut self, record: u32, next: u32) {
        let at = record as usize + 4;
        self.0[at..at + 4].copy_from_slice(&next.to_le_bytes());
    }
}
