//! Inputs from inputs: bits, bytes, numbers, pieces of others. Nothing is learned; the same seed gives the same inputs.

/// Longest input.
const BYTES_MAX: usize = 64 << 10;
/// Numbers at which readers go wrong.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// Makes inputs of a corpus.
pub(crate) struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    state: u64,
    input: Vec<u8>,
}

impl<'a> Mutator<'a> {
    /// A seed and what to begin with.
    pub(crate) fn new(seed: u64, corpus: &'a [Vec<u8>]) -> Self {
        assert!(!corpus.is_empty(), "a target without a corpus");
        Self { corpus, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, input: Vec::new() }
    }

    /// The next input.
    pub(crate) fn next(&mut self) -> &[u8] {
        let from = self.below(self.corpus.len());
        self.input.clone_from(&self.corpus[from]);
        for _ in 0..=self.below(6) {
            self.change();
        }
        self.input.truncate(BYTES_MAX);
        &self.input
    }

    fn change(&mut self) {
        let (kind, at, other) = (self.below(9), self.below(self.input.len() + 1), self.below(self.corpus.len()));
        let end = (at + 1 + self.below(16)).min(self.input.len());
        match kind {
            0 if at < self.input.len() => self.input[at] ^= 1 << self.below(8),
            1 if at < self.input.len() => self.input[at] = self.byte(),
            2 => self.input.truncate(at),
            3 => drop(self.input.drain(at.min(end)..end)),
            4 => {
                let piece = self.input[at.min(end)..end].to_vec();
                let times = 1 + self.below(64);
                self.input.splice(at..at, piece.repeat(times));
            }
            5 => {
                let (edge, width) = (EDGES[self.below(EDGES.len())].to_le_bytes(), [1, 2, 4, 8][self.below(4)]);
                for (offset, byte) in edge[..width].iter().enumerate() {
                    if let Some(there) = self.input.get_mut(at + offset) {
                        *there = *byte;
                    }
                }
            }
            6 => {
                let piece = &self.corpus[other];
                let from = if piece.is_empty() { 0 } else { self.random() as usize % piece.len() };
                let piece = self.corpus[other][from..].to_vec();
                self.input.splice(at..at, piece);
            }
            7 => {
                let byte = self.byte();
                self.input.insert(at, byte);
            }
            _ => {
                let byte = if self.below(2) == 0 { b'"' } else { 0xff };
                self.input.insert(at, byte);
            }
        }
    }

    fn byte(&mut self) -> u8 {
        self.random().to_le_bytes()[0]
    }

    fn below(&mut self, end: usize) -> usize {
        (self.random() % u64::try_from(end.max(1)).unwrap_or(1)) as usize
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}
