//! The books of every flow: at rest, each event that was read has a fate, and both ends of a flow say the same.
//!
//! [`assert_audits`] is for the end of a test whose flows come to rest; `assert_none_unbalanced` is what every router is asked before its
//! test ends it, so that no test can forget it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use longhaul_router::{End, FlowView};

use crate::mesh::Mesh;
use crate::wait::until;

/// For what is under way to be acknowledged, and for both ends to say so.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a router to tell its metrics.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// Always 0, whatever is under way.
const UNBALANCED: &str = "longhaul_flows_unbalanced";

/// Waits until nothing is under way in these regions, and judges the books of all their flows. Not for flows that are halted: what they
/// have under way stays so.
///
/// # Panics
/// When the books of a flow do not balance, when its ends contradict each other, or when it does not come to rest.
pub async fn assert_audits(mesh: &Mesh, regions: &[&str]) {
    let mut last = String::new();
    let what = format!("the flows of {regions:?} are at rest");
    let judged = until(&what, PATIENCE, async || {
        let mut flows = Vec::new();
        for region in regions {
            flows.extend(mesh.flows(region).await);
        }
        flows.iter().for_each(assert_balanced);
        let busy = flows.iter().filter(|flow| flow.audit.under_way > 0);
        let unlike = differing(&flows);
        let now = busy.map(line).chain(unlike).collect::<Vec<_>>().join("\n");
        if now.is_empty() {
            return Some(flows.len());
        }
        if now != last {
            eprintln!("not at rest, or not yet the same at both ends:\n{now}");
            last = now;
        }
        None
    })
    .await;
    assert!(judged > 0, "{regions:?} have no flows");
}

/// Judges what a router itself says of the books of its flows, at rest or not.
///
/// # Panics
/// When it does not answer, or counts flows whose books do not balance.
pub(crate) fn assert_none_unbalanced(who: &str, admin: SocketAddr) {
    let metrics = ask(admin, "/metrics").unwrap_or_else(|error| panic!("{who} does not tell its metrics: {error}"));
    assert!(metrics.starts_with("HTTP/1.1 200 "), "{who} does not tell its metrics: {metrics}");
    let counted = metrics.lines().filter(|line| line.starts_with(UNBALANCED));
    let wrong: Vec<_> = counted.filter(|line| !line.ends_with(" 0")).collect();
    assert!(wrong.is_empty(), "the books of {who} do not balance: {wrong:?}");
}

/// What a router says of its flows that are not level, for whoever has to understand why a test failed.
pub(crate) fn unfinished(admin: SocketAddr) -> String {
    let answer = ask(admin, "/v1/flows").unwrap_or_else(|error| format!("it does not tell its flows: {error}"));
    let body = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body);
    let Ok(flows) = serde_json::from_str::<Vec<FlowView>>(body) else { return answer };
    let behind = |flow: &&FlowView| flow.fault.is_some() || flow.lag_events != Some(0);
    flows.iter().filter(behind).map(|flow| format!("{flow:?}\n")).collect()
}

/// Not with the helpers of tests: a mesh that is dropped cannot await.
fn ask(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ANSWER_PATIENCE)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn assert_balanced(flow: &FlowView) {
    assert!(flow.audit_balanced && flow.audit.is_balanced(), "the books do not balance: {}", line(flow));
}

/// Flows of which both ends counted from the same place on, and say different things.
fn differing(flows: &[FlowView]) -> Vec<String> {
    let inflows: Vec<_> = flows.iter().filter(|flow| flow.end == End::In).collect();
    let owned = flows.iter().filter(|flow| flow.end == End::Out);
    let pairs = owned.filter_map(|out| Some((out, *inflows.iter().find(|into| into.id == out.id)?)));
    let comparable = pairs.filter(|(out, into)| {
        out.audit.since == into.audit.since && (out.audit.lives, into.audit.lives) == (1, 1) && out.audit.gaps == 0
    });
    let unlike = comparable
        .filter(|(out, into)| out.audit.delivered != into.audit.delivered + into.audit.parked + into.audit.dropped);
    unlike.map(|(out, into)| format!("{}\n  {}", line(out), line(into))).collect()
}

fn line(flow: &FlowView) -> String {
    format!("{:?} {} {}/{} -> {}: {:?}", flow.end, flow.route, flow.from, flow.shard, flow.to, flow.audit)
}
