//! Amounts with units: sizes, rates, durations and times.
//!
//! Sizes count bytes, binary (`KiB MiB GiB TiB`) or decimal (`kB MB GB TB`); rates count bits per second, decimal. A number
//! without a unit is bytes, bits per second or nothing: a duration must name its unit.

use std::time::Duration;

use longhaul_topology::RouteStart;

const SIZES: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const RATES: [(&str, u64); 5] =
    [("", 1), ("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)];

const DURATIONS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// Bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    amount(text, &SIZES, "a size such as `512MiB`")
}

/// Bits per second.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    amount(text, &RATES, "a rate such as `1Gbit/s` or `200Mbit/s`")
}

/// A span of time.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    amount(text, &DURATIONS, "a duration such as `80ms`, `30s` or `7d`").map(Duration::from_micros)
}

/// A number, a unit. Up to three decimals, so that `1.5GiB` can be said.
fn amount(text: &str, units: &[(&str, u64)], expected: &str) -> Result<u64, String> {
    let wrong = || format!("expected {expected}");
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim_start());
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let known: Vec<&str> = units.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        return Err(format!("{}; units are {}", wrong(), known.join(", ")));
    };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if decimals.len() > 3 || (number.contains('.') && decimals.is_empty()) {
        return Err(wrong());
    }
    let thousandths =
        format!("{whole}{decimals:0<3}").parse::<u128>().ok().filter(|_| !whole.is_empty()).ok_or_else(wrong)?;
    let product = thousandths.checked_mul(u128::from(*factor)).ok_or_else(wrong)?;
    u64::try_from(product / 1000).map_err(|_| "this is too large".to_owned())
}

/// `latest`, `earliest`, or a time by RFC 3339.
pub(crate) fn start(text: &str) -> Result<RouteStart, String> {
    match text {
        "latest" => Ok(RouteStart::Latest),
        "earliest" => Ok(RouteStart::Earliest),
        time => rfc3339(time)
            .map(RouteStart::Time)
            .ok_or_else(|| "expected `latest`, `earliest` or a time such as `2026-11-23T08:00:00Z`".to_owned()),
    }
}

/// Milliseconds since the Unix epoch. Calendar arithmetic after Howard Hinnant's `days_from_civil`.
fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 20
        && bytes.is_ascii()
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && bytes[13] == b':'
        && bytes[16] == b':';
    if !shape || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = &text[from..to];
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_of_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (millis, zone) = fraction(&text[19..])?;
    let offset_minutes = zone_minutes(zone)?;
    let shifted = if month > 2 { year } else { year - 1 };
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second) * 1000 + millis)
}

/// Milliseconds of `.123..`, and what follows.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    let millis = format!("{:0<3.3}", &rest[..end]).parse().ok().filter(|_| end > 0)?;
    Some((millis, &rest[end..]))
}

/// `Z`, `+01:00` or `-05:30`.
fn zone_minutes(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
    let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
    (hours < 24 && minutes < 60).then(|| sign * (i64::from(hours) * 60 + i64::from(minutes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(size("1000"), Ok(1000));
        assert_eq!(size("10GB"), Ok(10_000_000_000));
        for wrong in [
            "",
            "MiB",
            "-1MiB",
            "1mib",
            "1.2345MiB",
            "1.MiB",
            "1..2MiB",
            "99999999999TiB",
            "0x10",
            "1e3",
            "99999999999999999999999999999999999999999",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(size("1mb").unwrap_err().contains("KiB, MiB"));
    }

    #[test]
    fn rates_and_durations() {
        assert_eq!(rate("1Gbit/s"), Ok(1_000_000_000));
        assert_eq!(rate("0.5Mbit/s"), Ok(500_000));
        assert!(rate("1Gb").is_err());
        assert_eq!(duration("80ms"), Ok(Duration::from_millis(80)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert!(duration("80").is_err());
    }

    #[test]
    fn times() {
        assert_eq!(start("latest"), Ok(RouteStart::Latest));
        assert_eq!(start("1970-01-01T00:00:00Z"), Ok(RouteStart::Time(0)));
        assert_eq!(start("2000-02-29T12:34:56.789Z"), Ok(RouteStart::Time(951_827_696_789)));
        assert_eq!(start("2026-11-23T08:00:00+01:00"), Ok(RouteStart::Time(1_795_417_200_000)));
        assert_eq!(start("1969-12-31T23:59:59Z"), Ok(RouteStart::Time(-1000)));
        for wrong in [
            "now",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T25:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
        ] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }
}
