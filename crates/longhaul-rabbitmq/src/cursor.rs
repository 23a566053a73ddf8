//! The bytes of a cursor: `version u8 = 1 | incarnation u64 LE | offset u64 LE`.

use longhaul_event::Position;

const VERSION: u8 = 1;

/// The bytes of a position.
pub(crate) fn encode(position: Position) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(position.incarnation.to_le_bytes());
    bytes.extend(position.offset.to_le_bytes());
    bytes
}

/// The position of these bytes; `None` when they are none of this version.
pub(crate) fn decode(bytes: &[u8]) -> Option<Position> {
    let (&VERSION, rest) = bytes.split_first()? else { return None };
    let (incarnation, offset) = rest.split_first_chunk::<8>()?;
    Some(Position {
        incarnation: u64::from_le_bytes(*incarnation),
        offset: u64::from_le_bytes(offset.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_nothing_else_is_one() {
        let position = Position { incarnation: u64::MAX - 1, offset: u64::MAX };
        let bytes = encode(position);
        assert_eq!(decode(&bytes), Some(position));
        assert_eq!(decode(&bytes[..16]), None);
        assert_eq!(decode(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(decode(&[&[2], &bytes[1..]].concat()), None, "another version");
        assert_eq!(decode(b""), None);
    }
}
