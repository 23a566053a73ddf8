//! The requests that provisioning needs, spoken by hand: a Java tool for each would cost a second and a JVM every time.
//!
//! Only versions that Kafka 4 still speaks and that have no tagged fields: Metadata 1, `CreateTopics` 4, `DeleteTopics` 1, `CreateAcls` 1.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const METADATA: i16 = 3;
const CREATE_TOPICS: i16 = 19;
const DELETE_TOPICS: i16 = 20;
const CREATE_ACLS: i16 = 30;
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Whether the broker answers and knows itself.
pub(super) fn serves(bootstrap: &str) -> Result<(), String> {
    let mut answer = ask(bootstrap, METADATA, 1, &[0, 0, 0, 0])?;
    match answer.i32()? {
        0 => Err("the broker has not registered yet".to_owned()),
        _ => Ok(()),
    }
}

/// Whether the topic has that many partitions at least, all with a leader.
pub(super) fn topic_ready(bootstrap: &str, name: &str, partitions: u32) -> Result<(), String> {
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, name);
    let mut answer = ask(bootstrap, METADATA, 1, &body)?;
    for _ in 0..answer.i32()? {
        answer.i32()?;
        answer.text()?;
        answer.i32()?;
        answer.text()?;
    }
    answer.i32()?;
    answer.i32()?;
    refused(name, answer.i16()?, "")?;
    answer.text()?;
    answer.take(1)?;
    let found = answer.i32()?;
    for _ in 0..found {
        refused(name, answer.i16()?, "")?;
        answer.i32()?;
        answer.i32()?;
        for _ in 0..2 {
            let replicas = usize::try_from(answer.i32()?).unwrap_or(0);
            answer.take(4 * replicas)?;
        }
    }
    if i64::from(found) < i64::from(partitions) {
        return Err(format!("topic {name} has {found} partitions"));
    }
    Ok(())
}

/// Makes a topic with as many replicas as the cluster's default says, which is one.
pub(super) fn create_topic(
    bootstrap: &str,
    name: &str,
    partitions: u32,
    options: &[(&str, &str)],
) -> Result<(), String> {
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, name);
    body.extend(partitions.to_be_bytes());
    body.extend((-1_i16).to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(i32::try_from(options.len()).unwrap_or(0).to_be_bytes());
    for (key, value) in options {
        put_text(&mut body, key);
        put_text(&mut body, value);
    }
    body.extend(10_000_i32.to_be_bytes());
    body.push(0);
    let mut answer = ask(bootstrap, CREATE_TOPICS, 4, &body)?;
    answer.i32()?;
    answer.i32()?;
    answer.text()?;
    let code = answer.i16()?;
    let why = answer.text()?;
    refused(name, code, &why)
}

/// Deletes a topic.
pub(super) fn delete_topic(bootstrap: &str, name: &str) -> Result<(), String> {
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_text(&mut body, name);
    body.extend(10_000_i32.to_be_bytes());
    let mut answer = ask(bootstrap, DELETE_TOPICS, 1, &body)?;
    answer.i32()?;
    answer.i32()?;
    answer.text()?;
    refused(name, answer.i16()?, "")
}

/// Allows the principal everything with one consumer group, and so nothing to whoever was not told.
pub(super) fn allow_group(bootstrap: &str, group: &str, principal: &str) -> Result<(), String> {
    const GROUP: u8 = 3;
    const LITERAL: u8 = 3;
    const EVERYTHING: u8 = 2;
    const ALLOW: u8 = 3;
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.push(GROUP);
    put_text(&mut body, group);
    body.push(LITERAL);
    put_text(&mut body, principal);
    put_text(&mut body, "*");
    body.extend([EVERYTHING, ALLOW]);
    let mut answer = ask(bootstrap, CREATE_ACLS, 1, &body)?;
    answer.i32()?;
    answer.i32()?;
    let code = answer.i16()?;
    let why = answer.text()?;
    if code == 0 { Ok(()) } else { Err(format!("group {group}: Kafka's error {code} {why}")) }
}

fn refused(name: &str, code: i16, why: &str) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("topic {name}: Kafka's error {code} {why}")) }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(i16::try_from(text.len()).expect("a name is short").to_be_bytes());
    out.extend(text.as_bytes());
}

fn ask(bootstrap: &str, api: i16, version: i16, body: &[u8]) -> Result<Answer, String> {
    let said = |e: std::io::Error| format!("{bootstrap}: {e}");
    let address = bootstrap.to_socket_addrs().map_err(said)?.next().ok_or("the address resolves to nothing")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(said)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(said)?;
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    put_text(&mut request, "longhaul-test");
    request.extend(body);
    let len = i32::try_from(request.len()).map_err(|e| e.to_string())?;
    stream.write_all(&[&len.to_be_bytes()[..], &request].concat()).map_err(said)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).map_err(said)?;
    let len = usize::try_from(i32::from_be_bytes(head)).map_err(|e| e.to_string())?;
    if len > ANSWER_BYTES_MAX {
        return Err(format!("an answer of {len} bytes is none of Kafka's"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).map_err(said)?;
    let mut answer = Answer { bytes, at: 0 };
    answer.i32()?;
    Ok(answer)
}

/// An answer being read.
struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let slice = self.bytes.get(self.at..self.at + count).ok_or("Kafka's answer is too short")?;
        self.at += count;
        Ok(slice)
    }

    fn i16(&mut self) -> Result<i16, String> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn i32(&mut self) -> Result<i32, String> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Text; none is the empty text.
    fn text(&mut self) -> Result<String, String> {
        let len = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }
}
