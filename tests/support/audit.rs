//! The books of every flow: at rest, each event that was read has a fate, and both ends of a flow say the same.

use std::time::Duration;

use longhaul_router::{End, FlowView};

use crate::mesh::Mesh;
use crate::wait::until;

/// For what is under way to be acknowledged, and for both ends to say so.
const PATIENCE: Duration = Duration::from_secs(60);

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
