//! Makes a failure small: leaves out faults for as long as the same check fails.

use crate::plan::Plan;
use crate::world::run;

/// The plan with as few faults as still violate the same check.
#[must_use]
pub fn shrink(plan: &Plan) -> Plan {
    let Some(check) = run(plan.clone(), false).violation.map(|violation| violation.check) else { return plan.clone() };
    let mut small = plan.clone();
    let mut size = small.faults.len();
    while size > 0 {
        let mut from = 0;
        while from < small.faults.len() {
            let mut fewer = small.clone();
            fewer.faults.drain(from..(from + size).min(small.faults.len()));
            if run(fewer.clone(), false).violation.is_some_and(|violation| violation.check == check) {
                small = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    small
}
